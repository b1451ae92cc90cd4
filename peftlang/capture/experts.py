"""Experts of Hugging Face models: which of its implementations runs while a model is recorded.

`transformers` runs a mixture's experts as a Python loop over those that tokens were given to
("eager"), or all of them as a few products. Which tokens an expert has depends on weights, so the
products are what can be recorded. They compute the same.
"""

from typing import Any

from torch import nn

_AT_ONCE = "grouped_mm"


def run_at_once(copy: nn.Module) -> None:
    """Let the experts of a copy run as products: its configurations are its own."""
    for module in copy.modules():
        config: Any = module.__dict__.get("config")
        chooses = "is_transposed" in module.__dict__ and "has_gate" in module.__dict__
        if chooses and hasattr(config, "_experts_implementation"):
            # The empty key is the configuration itself, without those inside it.
            config._experts_implementation = {"": _AT_ONCE}
