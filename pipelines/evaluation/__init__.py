"""Evaluation of models and files."""
