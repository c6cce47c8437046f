"""Sliding window, trained models, prediction of cases."""
