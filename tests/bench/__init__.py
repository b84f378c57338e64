"""``make bench``: what a decision costs, in ratios against a server that decides nothing, on the real Envoy."""
