"""Dropout: which version of a model serves a request, decided in Python for Envoy."""
