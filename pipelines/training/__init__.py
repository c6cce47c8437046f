"""Trainer, loss, checkpoints, resuming, run logger."""
