"""What Dropout counts: the catalogue of metrics, a process's own counts, and their merging into one exposition."""
