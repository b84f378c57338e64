"""Where decisions go once they are made: counts, and events for a sink, which no request waits for."""
