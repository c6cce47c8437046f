"""Trainer, loss, checkpoints, resuming, MLflow logging."""
