"""Polyhistor: Liu et al. 2022, section 4.1: a row's adapter, from its task, in two factors."""

import torch
from torch.distributions import Normal


def reference(site, params, h, task):
    rows = []
    for row, number in zip(h, task.tolist(), strict=True):
        code = params.z[number]
        thin = row @ (params.Q_d @ code).view(site.p, -1).T @ (params.P_d @ code).view(-1, site.p).T
        wide = torch.relu(thin) @ (params.Q_u @ code).view(site.p, site.n).T
        rows.append(row + wide @ (params.P_u @ code).view(-1, site.p).T)
    return torch.stack(rows)


def initial(site, W, b):
    n, d, p, t = site.n, site.d_h, site.p, site.t
    small = Normal(0.0, 0.1)
    return {
        "z": Normal(0.0, 1.0).expand([site.tasks, t]),
        "P_d": small.expand([n * p, t]),
        "Q_d": small.expand([p * d, t]),
        "P_u": torch.zeros(d * p, t),
        "Q_u": small.expand([p * n, t]),
    }


POSITIONS = ("attn", "ffn")
SHARED = {"z": "model", **dict.fromkeys(("P_d", "Q_d", "P_u", "Q_u"), "stack")}
