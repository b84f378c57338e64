"""The command line, and the processes that ``dropout serve`` starts. The only place that names adapters."""
