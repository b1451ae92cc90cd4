"""LoKr: the Kronecker product C (x) (B A), block by block (Edalati et al. 2022; LyCORIS)."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    small = params.B @ params.A
    rows = [torch.cat([entry * small for entry in row], dim=1) for row in params.C]
    return linear(x, W + site.alpha / site.r * torch.cat(rows, dim=0), b)


def initial(site, W, b):
    d_h, d_x = W.shape
    r, f = site.r, site.f
    return {
        "C": torch.zeros(f, f),
        "A": Uniform(-((d_x / f) ** -0.5), (d_x / f) ** -0.5).expand([r, d_x // f]),
        "B": Uniform(-(r**-0.5), r**-0.5).expand([d_h // f, r]),
    }


POSITIONS = ("attn.q", "attn.v")
