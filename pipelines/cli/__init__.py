"""The commands of `python -m pipelines` and `segbundles`, a module each."""
