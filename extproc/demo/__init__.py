"""What ``dropout demo`` runs: two real models behind a real Envoy, and the claims that are checked while it runs.

versions   what the two versions are
models     trains them, on a data set that scikit-learn carries
app        serves one
traffic    the users
processes  starting and ending them
house      which there are: versions, Dropout, Envoy
documents  what is applied
stage      where the acts play, and what an act is
acts       what is done while the users go on, and what must then hold
report     the answers in numbers
picture    the numbers as an image
screen     bars and tables, or plain lines
run        one run from beginning to end
"""
