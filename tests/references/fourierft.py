"""FourierFT: Gao et al. 2024, eq. 2-4; the real part of the transform is a sum of cosines."""

import math

import torch
from torch.distributions import Normal
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    rows, columns = W.shape
    down = torch.arange(rows)[:, None, None] * params.E[:, 0].double() / rows
    across = torch.arange(columns)[None, :, None] * params.E[:, 1].double() / columns
    waves = torch.cos(2 * math.pi * (down + across)).to(W.dtype)
    change = waves @ params.c / (rows * columns)
    return linear(x, W + site.alpha * change, b)


def initial(site, W, b):
    d_h, d_x = W.shape
    draw = torch.Generator().manual_seed(site.seed)
    flat = torch.randperm(d_h * d_x, generator=draw)[: site.n]
    return {
        "E": torch.stack([flat // d_x, flat % d_x], dim=1),
        "c": Normal(0.0, 1.0).expand([site.n]),
    }


POSITIONS = ("attn.q", "attn.v")
FROZEN = ("E",)
