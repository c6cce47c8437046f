"""python -m pipelines, segbundles: train, predict, check."""
