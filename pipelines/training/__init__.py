"""Training: trainer, loss, checkpoints, resuming, logging to MLflow."""
