"""Polyhistor-Lite: Liu et al. 2022, an adapter made from the task, and widened by a kernel."""

import torch
from torch.distributions import Normal


def reference(site, params, h, task):
    rows = []
    for row, number in zip(h, task, strict=True):
        code = params.z[number]
        down = (params.P_d @ code).reshape(site.n, site.p) @ (params.Q_d @ code).reshape(site.p, -1)
        up = (params.P_u @ code).reshape(-1, site.p) @ (params.Q_u @ code).reshape(site.p, site.n)
        wide, back = torch.kron(params.K_d, down), torch.kron(params.K_u, up)
        rows.append(row + torch.relu(row @ wide.T) @ back.T)
    return torch.stack(rows)


def initial(site, W, b):
    n, d, p, t = site.n, site.d, site.p, site.t
    small = Normal(0.0, 0.1)
    return {
        "z": Normal(0.0, 1.0).expand([site.tasks, t]),
        "P_d": small.expand([n * p, t]),
        "Q_d": small.expand([p * d, t]),
        "P_u": torch.zeros(d * p, t),
        "Q_u": small.expand([p * n, t]),
        "K_d": torch.eye(site.d_h // d),
        "K_u": torch.eye(site.d_h // d),
    }


POSITIONS = ("attn", "ffn")
SHARED = dict.fromkeys(("z", "P_d", "Q_d", "P_u", "Q_u"), "model")
