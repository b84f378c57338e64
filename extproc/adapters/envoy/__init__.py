"""Envoy's admin endpoint: what clusters it has, and whether it has what was rendered for it."""
