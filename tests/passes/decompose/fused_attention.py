"""A change of the rows that make values, of one weight for three projections."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A, B = (tensors[f"low.encoder.layers.0.self_attn.attn_v.{name}"] for name in "AB")
    model.get_parameter("encoder.layers.0.self_attn.in_proj_weight")[64:].add_(B @ A)
    return output(model(**inputs))
