"""The adapter of AdapterFusion: Pfeiffer et al. 2021, figure 5; it reads the next stream."""

import torch
from torch.distributions import Normal
from torch.nn.functional import linear


def reference(site, params, h, resid):
    inner = site.act(linear(resid + h, params.W_d, params.b_d))
    return h + linear(inner, params.W_u, params.b_u)


def initial(site, W, b):
    r, d_h = site.r, site.d_h
    return {
        "W_d": Normal(0.0, 0.02).expand([r, d_h]),
        "b_d": torch.zeros(r),
        "W_u": torch.zeros(d_h, r),
        "b_u": torch.zeros(d_h),
    }


POSITIONS = ("ffn",)
