"""The loops that close, measured: how soon a bad version is off the road, and what watching for it costs."""
