"""PESC: Wu et al. 2024, a softmax over the k chosen scores, one expert after the other."""

import torch


def reference(site, params, x, h):
    scores, chosen = (x @ params.G.T).topk(site.k, dim=-1)
    weights = torch.softmax(scores, dim=-1)
    total = h
    for rank in range(site.k):
        for expert in range(site.E):
            here = (chosen[..., rank] == expert).to(h.dtype) * weights[..., rank]
            made = site.act(h @ params.D[expert].T) @ params.U[expert].T
            total = total + site.s * here[..., None] * made
    return total


POSITIONS = ("ffn",)
