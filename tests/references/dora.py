"""DoRA: Liu et al. 2024, eq. 5, with the norm detached as in section 4.3."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    direction = W + site.alpha / site.r * (params.B @ params.A)
    length = direction.detach().pow(2).sum(dim=1).sqrt()
    return linear(x, (params.m / length)[:, None] * direction, b)


def initial(site, W, b):
    d_h, d_x = W.shape
    r = site.r
    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B": torch.zeros(d_h, r),
        "m": W.pow(2).sum(dim=1).sqrt(),
    }


POSITIONS = ("attn.q", "attn.v")
