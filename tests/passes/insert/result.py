"""A low-rank path beside a projection."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import beside, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A, B = (tensors[f"low.body.0.mixing.wants.attn_q.{name}"] for name in "AB")
    beside(model, "body.0.mixing.wants", lambda x, h: h + x @ A.mT @ B.mT)
    return output(model(**inputs))
