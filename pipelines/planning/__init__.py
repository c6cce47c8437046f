"""Fingerprints of datasets and plans of trainings."""
