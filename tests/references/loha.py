"""LoHa: Hyeon-Woo et al. 2022, proposition 1."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    product = (params.B_1 @ params.A_1) * (params.B_2 @ params.A_2)
    return linear(x, W + site.alpha / site.r * product, b)


def initial(site, W, b):
    d_h, d_x = W.shape
    r = site.r
    return {
        "A_1": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B_1": Uniform(-(r**-0.5), r**-0.5).expand([d_h, r]),
        "A_2": torch.zeros(r, d_x),
        "B_2": Uniform(-(r**-0.5), r**-0.5).expand([d_h, r]),
    }


POSITIONS = ("attn.q", "attn.v")
