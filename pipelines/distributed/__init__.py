"""Training and prediction in several processes."""
