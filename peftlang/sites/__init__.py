"""Positions of a model: which there are, where each runs, and what a selector chooses."""
