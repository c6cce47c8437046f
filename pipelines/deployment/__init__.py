"""Trained models as MONAI bundle and MLflow model."""
