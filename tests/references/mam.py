"""The mix-and-match adapter: He et al. 2022, section 4.6: a prefix, and a scaled adapter."""

import torch
from torch.distributions import Normal, Uniform
from torch.nn.functional import linear


def reference(site, params, h, x=None, k=None, v=None):
    if site.role == "ffn":
        inner = torch.relu(linear(x, params.W_d, params.b_d))
        return h + site.s * linear(inner, params.W_u, params.b_u)
    rows = len(h)
    return {
        "k": torch.cat([params.P_k.expand(rows, -1, -1, -1), k], dim=1),
        "v": torch.cat([params.P_v.expand(rows, -1, -1, -1), v], dim=1),
    }


def initial(site, W, b):
    if site.role == "ffn":
        r, d_x, d_h = site.r, site.d_x, site.d_h
        return {
            "W_d": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
            "b_d": torch.zeros(r),
            "W_u": torch.zeros(d_h, r),
            "b_u": torch.zeros(d_h),
        }
    shape = [site.l, site.kv_heads, site.d_head]
    return {"P_k": Normal(0.0, 0.02).expand(shape), "P_v": Normal(0.0, 0.02).expand(shape)}


POSITIONS = ("attn.core", "cross_attn.core", "ffn")
