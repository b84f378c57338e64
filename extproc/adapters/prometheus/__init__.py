"""A Prometheus as a server of metrics."""
