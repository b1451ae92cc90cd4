"""A gain on what the second layer of an MLP is given."""

from typing import Any

from torch import Tensor, nn

from tests.passes.plain import before, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    g = tensors["gain.body.0.thinking.3.ffn_act.g"]
    before(model, "body.0.thinking.3", lambda h: g * h)
    return output(model(**inputs))
