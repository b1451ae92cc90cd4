"""Soft tokens: where they can come in, how a call makes place for them, and its results without."""
