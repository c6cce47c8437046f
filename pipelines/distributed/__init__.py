"""Training and prediction over several processes."""
