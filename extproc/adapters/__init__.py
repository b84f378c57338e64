"""A folder per real system, behind the ports; imported by ``run`` and ``cli`` alone."""
