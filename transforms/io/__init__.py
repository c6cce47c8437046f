"""Reader and writer of all image formats."""
