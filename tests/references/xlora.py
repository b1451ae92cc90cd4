"""X-LoRA: Buehler and Buehler 2024, gates of each token from another hidden state, here `e`."""

import torch
from torch.distributions import Uniform


def reference(site, params, x, h, e):
    gates = torch.softmax((e @ params.G.T + params.c) / site.temperature, dim=-1)
    total = h
    for expert in range(site.E):
        change = x @ params.A[expert].T @ params.B[expert].T
        total = total + site.alpha / site.r * gates[..., expert, None] * change
    return total


def initial(site, W, b):
    narrow, wide = site.d_x**-0.5, site.d_e**-0.5
    return {
        "A": Uniform(-narrow, narrow).expand([site.E, site.r, site.d_x]),
        "B": torch.zeros(site.E, site.d_h, site.r),
        "G": Uniform(-wide, wide).expand([site.E, site.d_e]),
        "c": torch.zeros(site.E),
    }


POSITIONS = ("attn.q", "attn.v")
