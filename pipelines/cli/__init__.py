"""python -m pipelines: predict, check, evaluate, compare, sync."""
