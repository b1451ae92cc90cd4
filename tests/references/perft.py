"""PERFT-R: Liu et al. 2024, gates of the kept experts scaled to sum 1 as in Mixtral."""

import torch
from torch.distributions import Normal


def reference(site, params, x, h):
    gates, chosen = torch.softmax(x @ params.R.T, dim=-1).topk(site.k, dim=-1)
    gates = gates / gates.sum(-1, keepdim=True)
    made = torch.stack([x @ (b @ a).T for a, b in zip(params.A, params.B, strict=True)], dim=-2)
    picked = made.take_along_dim(chosen[..., None], dim=-2)
    return h + site.alpha / site.r * (gates[..., None] * picked).sum(-2)


def penalty(site, params, x):
    """Switch's: how often each expert is chosen, times how likely it is."""
    likely = torch.softmax(x @ params.R.T, dim=-1).flatten(0, 1)
    chosen = likely.topk(site.k, dim=-1).indices
    often = torch.stack([(chosen == e).any(-1).to(x.dtype).mean() for e in range(site.M)])
    return site.balance * site.M * (often * likely.mean(0)).sum()


def initial(site, W, b):
    M, r = site.M, site.r
    return {
        "A": Normal(0.0, (2 / r) ** 0.5).expand([M, r, site.d_x]),
        "B": torch.zeros(M, site.d_h, r),
        "R": Normal(0.0, 0.02).expand([M, site.d_x]),
    }


POSITIONS = ("ffn",)
