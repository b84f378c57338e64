"""What a decision costs in instructions, which valgrind counts: the same on a machine that others share."""
