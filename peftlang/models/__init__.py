"""Models by name, and inputs for a look at their graphs."""

from peftlang.models.inputs import example_inputs
from peftlang.models.load import load_model
from peftlang.models.presets import PRESETS, Preset, build

__all__ = ["PRESETS", "Preset", "build", "example_inputs", "load_model"]
