"""Locks, signals, processes, progress, provenance."""
