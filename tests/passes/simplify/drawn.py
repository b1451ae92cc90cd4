"""Dropout leaves alone what is not trained."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import beside, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A, B = (tensors[f"noisy.body.0.thinking.ffn.{name}"] for name in "AB")
    beside(model, "body.0.thinking", lambda x, h: h + (x @ A.mT) ** 2 + x @ B.mT)
    return output(model(**inputs))
