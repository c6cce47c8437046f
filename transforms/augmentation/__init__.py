"""Random variations of a patch."""
