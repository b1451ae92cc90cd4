"""Control prefixes: Clive et al. 2022, section 3, example by example."""

import torch
from torch.distributions import Normal, Uniform


def reference(site, params, k, v, label):
    found = {}
    for name, own in (("k", k), ("v", v)):
        rows = []
        for row, one in zip(own, label.tolist(), strict=True):
            whole = torch.cat([params.E_c[one], params.E_g])
            hidden = torch.tanh(whole @ params.W_1.T + params.b_1)
            prefix = hidden @ params[f"U_{name}"].T + params[f"b_{name}"]
            rows.append(torch.cat([prefix.view(-1, *row.shape[1:]), row]))
        found[name] = torch.stack(rows)
    return found


def initial(site, W, b):
    e, m, width = site.e, site.m, site.kv_heads * site.d_head
    first, second = (6 / (e + m)) ** 0.5, (6 / (m + width)) ** 0.5
    return {
        "E_g": Normal(0.0, 0.02).expand([site.l, e]),
        "E_c": Normal(0.0, 0.02).expand([site.labels, site.c, e]),
        "W_1": Uniform(-first, first).expand([m, e]),
        "b_1": torch.zeros(m),
        **{f"U_{part}": Uniform(-second, second).expand([width, m]) for part in "kv"},
        **{f"b_{part}": torch.zeros(width) for part in "kv"},
    }


SHARED = dict.fromkeys(("E_g", "E_c", "W_1", "b_1"), "layers")
POSITIONS = ("attn.core", "cross_attn.core")
