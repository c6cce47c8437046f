"""Files whole or not at all, threads, walks."""
