"""What ``dropout demo`` runs: two real model versions, their users, and a picture of who served whom."""
