"""MMRL++: Guo and Gu 2025; tokens of one space, mixed into what came in after the first layer."""

import torch
from torch.distributions import Normal, Uniform


def reference(site, params, x=None, h=None):
    if site.role == "prompt":
        return torch.cat([h.new_zeros(len(h), site.l, h.shape[-1]), h], dim=1)
    tokens = torch.nn.functional.linear(params.R, params.P + params.A @ params.B, params.b)
    mixed = 1.0 if site.layer == 0 else site.beta
    count = min(len(tokens), x.shape[1])
    own = mixed * tokens[:count] + (1 - mixed) * x[:, :count]
    return {"x": torch.cat([own, x[:, count:]], dim=1)}


def initial(site, W, b):
    if site.role == "prompt":
        return {"Z": torch.zeros(site.l, site.d_h)}
    wide, narrow = site.d_r**-0.5, site.rank**-0.5
    return {
        "R": Normal(0.0, 0.02).expand([site.l, site.d_r]),
        "P": Uniform(-wide, wide).expand([site.d_x, site.d_r]),
        "A": Uniform(-narrow, narrow).expand([site.d_x, site.rank]),
        "B": torch.zeros(site.rank, site.d_r),
        "b": torch.zeros(site.d_x),
    }


FROZEN = ("Z",)
SHARED = {"R": "model", "P": "stack"}
POSITIONS = ("prompt", "block")
