"""A model with one adapter, and the adapter."""

from typing import Any

from torch import nn

import peftlang

NAME = "default"


def adapted(base: nn.Module, spec: Any, **options: Any) -> tuple[nn.Module, Any]:
    """The base in evaluation mode with one acting adapter, and that adapter.

    Args:
        base: A model that nobody else uses.
        spec: As for `peftlang.compile`.
        **options: Likewise.
    """
    model = peftlang.compile(base.eval(), spec, **options)
    return model, peftlang.adapters(model)[NAME]
