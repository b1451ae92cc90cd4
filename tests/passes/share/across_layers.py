"""Two layers with one A, and a B for each."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from tests.passes.plain import beside, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A = tensors["low.shared.body.attn_q.A"]
    for path in ("body.0.mixing.wants", "body.1.mixing.wants"):
        B = tensors[f"low.{path}.attn_q.B"]
        beside(model, path, partial(_low, A, B))
    return output(model(**inputs))


def _low(A: Tensor, B: Tensor, x: Tensor, h: Tensor) -> Tensor:
    return h + x @ A.mT @ B.mT
