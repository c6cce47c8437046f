"""CT series, SEG, RTSTRUCT: read, checked, written."""
