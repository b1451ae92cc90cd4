"""MoV: Zadouri et al. 2024, section 3, the vectors merged before they scale."""

import torch
from torch.distributions import Normal


def reference(site, params, h):
    gates = torch.softmax(h @ params.R.T, dim=-1)
    vectors = 1 + params.m
    merged = sum(gates[..., e, None] * vectors[e] for e in range(site.E))
    return merged * h


def initial(site, W, b):
    shape = [site.E, site.d_h]
    return {"m": torch.zeros(shape), "R": Normal(0.0, 0.02).expand(shape)}


POSITIONS = ("attn.k", "attn.v", "ffn.act")
