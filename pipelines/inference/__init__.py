"""Sliding window, trained models, prediction."""
