"""The rules of a plan: from figures of a dataset to the values of knobs, each with its reason."""
