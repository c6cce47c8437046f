"""Datasets, cases, folds; patch store and loaders."""
