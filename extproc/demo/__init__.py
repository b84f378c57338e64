"""What ``dropout demo`` runs: real models behind a real Envoy, and the claims that are checked while it runs.

versions    what the versions are
models      trains them, on a data set that scikit-learn carries
app         serves one
traffic     the users
labeller    tells, later, who was right
processes   starting and ending them
environment which processes there are: versions, Dropout, its controller, Envoy
documents   what is applied
scenario    where the acts play, and what an act is
acts        what is done by hand while the users go on, and what must then hold
loops       what happens without anybody's doing, and what must then hold
watching    where the rollout stands meanwhile
endings     how the rollouts ended
report      the answers in numbers
picture     the numbers as an image
screen      bars and tables, or plain lines
run         one run from beginning to end
"""
