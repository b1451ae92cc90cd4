"""PERFT-E: Liu et al. 2024, `z` the base router's scores; each expert's path has its gate."""

import torch
from torch.distributions import Normal


def reference(site, params, x, h, z):
    gates, chosen = torch.softmax(z, dim=-1).topk(site.k, dim=-1)
    gates = gates / gates.sum(-1, keepdim=True)
    made = torch.stack([x @ (b @ a).T for a, b in zip(params.A, params.B, strict=True)], dim=-2)
    picked = made.take_along_dim(chosen[..., None], dim=-2)
    return h + site.alpha / site.r * (gates[..., None] * picked).sum(-2)


def initial(site, W, b):
    return {
        "A": Normal(0.0, (2 / site.r) ** 0.5).expand([site.E, site.r, site.d_x]),
        "B": torch.zeros(site.E, site.d_h, site.r),
    }


POSITIONS = ("ffn",)
