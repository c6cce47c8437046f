"""Atomic file writing, threads, walks."""
