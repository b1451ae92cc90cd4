"""The scaled parallel adapter: He et al. 2022, table 1: h + s * adapter(x), with relu."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site, params, x, h):
    inner = torch.relu(linear(x, params.W_d, params.b_d))
    return h + site.s * linear(inner, params.W_u, params.b_u)


def initial(site, W, b):
    r, d_x, d_h = site.r, site.d_x, site.d_h
    return {
        "W_d": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "b_d": torch.zeros(r),
        "W_u": torch.zeros(d_h, r),
        "b_u": torch.zeros(d_h),
    }


POSITIONS = ("ffn",)
