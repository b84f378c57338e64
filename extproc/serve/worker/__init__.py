"""A worker of ``dropout serve``: the process that answers Envoy."""
