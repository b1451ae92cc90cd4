"""UniAdapter: Lu et al. 2024, beside the feed-forward layer, with a norm of its own."""

import torch
from torch.distributions import Uniform


def reference(site, params, h, resid):
    centred = resid - resid.mean(-1, keepdim=True)
    deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    y = params.g * centred / deviation + params.c
    return h + site.s * torch.relu(y @ params.D.T) @ params.U.T


def initial(site, W, b):
    bound = site.d_h**-0.5
    return {
        "g": torch.ones(site.d_h),
        "c": torch.zeros(site.d_h),
        "D": Uniform(-bound, bound).expand([site.r, site.d_h]),
        "U": torch.zeros(site.d_h, site.r),
    }


SHARED = dict.fromkeys(("D", "g", "c"), "stacks")
POSITIONS = ("ffn",)
