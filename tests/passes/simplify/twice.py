"""A low-rank path, gated by itself."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import beside, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A, B = (tensors[f"gated.body.0.mixing.wants.attn_q.{name}"] for name in "AB")

    def change(x: Tensor, h: Tensor) -> Tensor:
        delta = x @ A.mT @ B.mT
        return h + delta.sigmoid() * delta

    beside(model, "body.0.mixing.wants", change)
    return output(model(**inputs))
