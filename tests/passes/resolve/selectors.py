"""Gains on what two projections give."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import after, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    for path, role in (("body.1.mixing.wants", "attn_q"), ("body.0.thinking.0", "ffn_up")):
        after(model, path, tensors[f"gain.{path}.{role}.g"].mul)
    return output(model(**inputs))
