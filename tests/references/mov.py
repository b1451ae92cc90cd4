"""MoV: Zadouri et al. 2024, section 3, the vectors merged before they scale."""

import torch


def reference(site, params, h):
    gates = torch.softmax(h @ params.R.T, dim=-1)
    vectors = 1 + params.m
    merged = sum(gates[..., e, None] * vectors[e] for e in range(site.E))
    return merged * h


POSITIONS = ("attn.k", "attn.v", "ffn.act")
