"""Prefix tuning through an MLP: Li and Liang 2021, section 4.3; Liu et al. 2022, section 3.2."""

import torch
from torch.distributions import Normal, Uniform


def reference(site, params, k, v):
    hidden = torch.tanh(params.E @ params.W_1.T + params.b_1)
    found = {}
    for name, own in (("k", k), ("v", v)):
        prefix = hidden @ params[f"U_{name}"].T + params[f"b_{name}"]
        prefix = prefix.view(1, -1, *own.shape[2:]).expand(len(own), -1, -1, -1)
        found[name] = torch.cat([prefix, own], dim=1)
    return found


def initial(site, W, b):
    e, m, width = site.e, site.m, site.kv_heads * site.d_head
    first, second = (6 / (e + m)) ** 0.5, (6 / (m + width)) ** 0.5
    return {
        "E": Normal(0.0, 0.02).expand([site.l, e]),
        "W_1": Uniform(-first, first).expand([m, e]),
        "b_1": torch.zeros(m),
        **{f"U_{part}": Uniform(-second, second).expand([width, m]) for part in "kv"},
        **{f"b_{part}": torch.zeros(width) for part in "kv"},
    }


SHARED = dict.fromkeys(("E", "W_1", "b_1"), "layers")
POSITIONS = ("attn.core", "cross_attn.core")
