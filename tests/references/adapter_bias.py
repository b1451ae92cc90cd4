"""AdapterBias: Fu et al. 2022, section 3; the token's weight is a linear layer of its own."""

import torch
from torch.distributions import Normal


def reference(site, params, x, h):
    weight = (x * params.a).sum(-1, keepdim=True) + params.c
    return h + weight * params.v


def initial(site, W, b):
    d_h, d_x = W.shape
    return {
        "v": torch.zeros(d_h),
        "a": Normal(0.0, 0.02).expand([d_x]),
        "c": torch.zeros(()),
    }


POSITIONS = ("ffn.down",)
