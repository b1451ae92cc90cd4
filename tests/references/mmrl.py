"""MMRL++: Guo and Gu 2025; tokens of one space, mixed into what came in after the first layer."""

import torch


def reference(site, params, x=None, h=None):
    if site.role == "prompt":
        return torch.cat([h.new_zeros(len(h), site.l, h.shape[-1]), h], dim=1)
    tokens = torch.nn.functional.linear(params.R, params.P + params.A @ params.B, params.b)
    mixed = 1.0 if site.layer == 0 else site.beta
    count = min(len(tokens), x.shape[1])
    own = mixed * tokens[:count] + (1 - mixed) * x[:, :count]
    return {"x": torch.cat([own, x[:, count:]], dim=1)}


FROZEN = ("Z",)
SHARED = {"R": "model", "P": "stack"}
