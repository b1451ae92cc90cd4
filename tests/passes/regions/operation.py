"""Attention with learned keys and values before its own, by torch's own product."""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.passes.plain import output

PRODUCT = functional.scaled_dot_product_attention


def reference(model: nn.Module, tensors: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    prefix = [tensors[f"keys.model.layers.0.self_attn.attn_core.P_{name}"] for name in "kv"]
    calls = []

    def product(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        calls.append(q)
        if len(calls) > 1:
            return PRODUCT(q, k, v, **options)
        count, tokens, more = len(prefix[0]), q.shape[2], []
        for own, new in zip((k, v), prefix, strict=True):
            before = new.transpose(0, 1).repeat_interleave(q.shape[1] // new.shape[1], 0)
            own = own.repeat_interleave(q.shape[1] // own.shape[1], 1)
            more.append(torch.cat([before.expand(len(q), -1, -1, -1), own], dim=2))
        sees = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        mask = torch.cat([torch.ones(tokens, count, dtype=torch.bool), sees], dim=1)
        return PRODUCT(q, more[0], more[1], attn_mask=mask, scale=options.get("scale"))

    with patch.object(functional, "scaled_dot_product_attention", product):
        return output(model(**inputs))
