"""A shift of a bias that is inside of `torch.nn.MultiheadAttention`."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    b = tensors["shift.encoder.layers.1.self_attn.out_proj.attn_o.b"]
    model.get_parameter("encoder.layers.1.self_attn.out_proj.bias").add_(b)
    return output(model(**inputs))
