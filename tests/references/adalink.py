"""AdaLink: Wang et al. 2023, the change as one matrix."""

import torch
from torch.distributions import Normal


def reference(site, params, h):
    return h + h @ (params.W_u @ params.W_d).T


def initial(site, W, b):
    r, d = site.r, site.d_h
    return {"W_d": Normal(0.0, 0.02).expand([r, d]), "W_u": torch.zeros(d, r)}


POSITIONS = ("embed",)
