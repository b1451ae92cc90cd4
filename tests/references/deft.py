"""DEFT: Runwal et al. 2025, section 3, with LoRA as the method that it goes beside."""

import torch
from torch.distributions import Uniform


def reference(site, params, h, x=None):
    if site.role == "ffn.act":
        return h
    return h + site.alpha / site.r * (x @ params.A.T @ params.B.T)


def penalty(site, params, h, x=None):
    if site.role != "ffn.act":
        return torch.zeros(())
    counted = [o**2 / (o**2 + site.eps) for o in h.flatten(0, 1)]
    return site.w * torch.stack(counted).mean() / site.layers


def initial(site, W, b):
    if site.role == "ffn.act":
        return {}
    bound = site.d_x**-0.5
    return {
        "A": Uniform(-bound, bound).expand([site.r, site.d_x]),
        "B": torch.zeros(site.d_h, site.r),
    }


POSITIONS = ("attn.q", "attn.v", "ffn.act")
