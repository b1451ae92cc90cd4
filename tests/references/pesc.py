"""PESC: Wu et al. 2024, a softmax over the k chosen scores, one expert after the other."""

import torch
from torch.distributions import Uniform


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


def penalty(site, params, x):
    """Switch's: how often each expert is chosen, times how likely it is."""
    likely = torch.softmax(x @ params.G.T, dim=-1).flatten(0, 1)
    chosen = likely.topk(site.k, dim=-1).indices
    often = torch.stack([(chosen == e).any(-1).to(x.dtype).mean() for e in range(site.E)])
    return site.balance * site.E * (often * likely.mean(0)).sum()


def initial(site, W, b):
    E, r, d = site.E, site.r, site.d_h
    read, made = site.d_x**-0.5, d**-0.5
    return {
        "G": Uniform(-read, read).expand([E, site.d_x]),
        "D": Uniform(-made, made).expand([E, r, d]),
        "U": torch.zeros(E, d, r),
    }


POSITIONS = ("ffn",)
