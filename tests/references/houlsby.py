"""The bottleneck adapter: Houlsby et al. 2019, figure 2, on the output of each sub-layer."""

import torch
from torch.distributions import Normal
from torch.nn.functional import linear


def reference(site, params, h):
    inner = site.act(linear(h, params.W_d, params.b_d))
    return h + linear(inner, params.W_u, params.b_u)


def initial(site, W, b):
    r, d_h = site.r, site.d_h
    return {
        "W_d": Normal(0.0, 0.02).expand([r, d_h]),
        "b_d": torch.zeros(r),
        "W_u": torch.zeros(d_h, r),
        "b_u": torch.zeros(d_h),
    }


POSITIONS = ("attn", "cross_attn", "ffn")
