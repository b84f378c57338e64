"""What each kind of step does: a file a kind."""
