"""The protect loop: outcomes from Envoy's access log, and versions that are taken away for failing."""
