"""Inference: sliding window, trained models, prediction of cases and their output files."""
