"""The store of rollouts: what is kept in it, where a rollout stands, and the ports by which it is used."""
