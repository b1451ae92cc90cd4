"""A convolution along the tokens; an encoder's tokens see those before and behind."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from tests.passes.plain import after, output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    K = tensors["near.body.0.thinking.ffn.K"]

    def change(h: Tensor) -> Tensor:
        turned = functional.conv1d(h.mT, K[:, None], padding=1, groups=h.shape[-1])
        return h + turned.mT

    after(model, "body.0.thinking", change)
    return output(model(**inputs))
