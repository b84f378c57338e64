"""What Envoy is configured with: the routes and clusters of the rollouts."""
