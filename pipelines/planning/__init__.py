"""What a dataset looks like (its fingerprint), and the settings of a training that follow from it (its plan)."""
