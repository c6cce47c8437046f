"""Helpers for atomic writing of files, threads and walking through folders."""
