"""SQLite: the embedded store, feature store, labels and observations, each a file of this machine."""
