"""Comparison of runs, case by case."""
