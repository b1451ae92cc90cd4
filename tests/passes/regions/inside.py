"""Attention of a hand-written model, with learned keys and values before its own."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.passes.plain import output


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    module: Any = model.get_submodule("body.0.mixing")
    more = {name: tensors[f"keys.body.0.mixing.attn_core.P_{name}"] for name in "kv"}

    def forward(x: Tensor) -> Tensor:
        batch, tokens, width = x.shape

        def heads(project: nn.Module, prefix: Tensor | None) -> Tensor:
            own = project(x).reshape(batch, tokens, module.heads, -1).transpose(1, 2)
            if prefix is None:
                return own
            before = prefix.transpose(0, 1).expand(batch, -1, -1, -1)
            return torch.cat([before, own], dim=2)

        q = heads(module.wants, None)
        k, v = heads(module.offers, more["k"]), heads(module.carries, more["v"])
        scores = q @ k.mT / (width // module.heads) ** 0.5
        return module.mix((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    module.forward = forward
    return output(model(**inputs))
