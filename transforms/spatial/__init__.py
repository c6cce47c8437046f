"""Orient, resample, and the way back."""
