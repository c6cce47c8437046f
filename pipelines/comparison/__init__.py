"""Runs side by side, case by case."""
