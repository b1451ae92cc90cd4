"""LoRA: Hu et al. 2022, eq. 3."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import dropout, linear


def reference(site, params, x, h):
    scale = site.alpha / site.r
    return h + scale * linear(linear(dropout(x, site.p, site.training), params.A), params.B)


def initial(site, W, b):
    d_h, d_x = W.shape
    r = site.r
    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B": torch.zeros(d_h, r),
    }


POSITIONS = ("attn.q", "attn.v")
TRAINING = True
