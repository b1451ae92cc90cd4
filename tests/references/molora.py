"""MoLoRA: Zadouri et al. 2024, section 3, one expert after the other."""

import torch
from torch.distributions import Normal, Uniform


def reference(site, params, x, h):
    gates = torch.softmax(x @ params.R.T, dim=-1)
    for expert in range(site.E):
        update = params.B[expert] @ params.A[expert]
        h = h + gates[..., expert, None] * (x @ update.T)
    return h


def initial(site, W, b):
    d_h, d_x = W.shape
    experts, r = site.E, site.r
    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([experts, r, d_x]),
        "B": torch.zeros(experts, d_h, r),
        "R": Normal(0.0, 0.02).expand([experts, d_x]),
    }


POSITIONS = ("attn.q", "attn.v")
