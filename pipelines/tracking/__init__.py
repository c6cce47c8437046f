"""The MLflow run: journal on disk, delivery, sync."""
