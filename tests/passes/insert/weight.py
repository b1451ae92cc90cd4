"""A weight that is another."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    A, B, m = (tensors[f"scaled.body.1.mixing.carries.attn_v.{name}"] for name in "ABm")
    weight = model.get_parameter("body.1.mixing.carries.weight")
    weight.copy_(m[:, None] * (weight + B @ A))
    return output(model(**inputs))
