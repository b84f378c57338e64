"""Generated from proto/: never edited by hand, checked for drift."""
