"""Files: feature values that are read from them, and events that are written to them."""
