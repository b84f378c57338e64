"""What changes a rollout: every action goes through one function, whoever asks."""
