"""IAA's aside chain at one layer: Ma et al. 2022; `s` is what the layer below left."""

import torch
from torch.distributions import Normal


def reference(site, params, h, s):
    state = s + site.act((h + s) @ params.D.T) @ params.U.T
    return {"h": h + params.g * state, "s": state}


def initial(site, W, b):
    r, d, small = site.r, site.d_h, Normal(0.0, 0.02)
    return {
        "s": torch.zeros(d),
        "D": small.expand([r, d]),
        "U": small.expand([d, r]),
        "g": torch.zeros(()),
    }


POSITIONS = ("block",)
