"""Real systems that tests run against: a module each, its fixtures in ``fixtures``, what brings it in ``install``."""
