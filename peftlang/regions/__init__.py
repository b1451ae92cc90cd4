"""The parts of a model that hold a method: chosen, written into, and taken apart to be run."""
