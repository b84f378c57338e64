"""One file per real system, behind the ports; imported by the command line alone."""
