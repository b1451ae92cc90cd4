"""StyleInject's mixture: Zhou et al. 2024, one set of gates for each sample."""

import torch
from torch.distributions import Normal, Uniform


def reference(site, params, x, h):
    rows = []
    for row, out in zip(x, h, strict=True):
        gates = torch.softmax(params.R @ row.mean(0), dim=0)
        down = sum(g * a for g, a in zip(gates, params.A, strict=True))
        rows.append(out + row @ (params.B @ down).T)
    return torch.stack(rows)


def initial(site, W, b):
    n, bound = site.n, site.d_x**-0.5
    return {
        "A": Uniform(-bound, bound).expand([n, site.r, site.d_x]),
        "B": torch.zeros(site.d_h, site.r),
        "R": Normal(0.0, 0.02).expand([n, site.d_x]),
    }


POSITIONS = ("attn.q", "attn.v")
