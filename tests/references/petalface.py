"""PETALface: Narayan et al. 2024, two low-rank paths weighed by each image's quality."""

import torch
from torch.distributions import Normal


def reference(site, params, x, h, quality):
    rows = []
    for row, out, q in zip(x, h, quality, strict=True):
        a = 0.5 + q - site.threshold
        low = (1 - a) * row @ params.A_1.T @ params.B_1.T
        high = (a * row) @ params.A_2.T @ params.B_2.T
        rows.append(out + site.s * (low + high))
    return torch.stack(rows)


def initial(site, W, b):
    found = {}
    for part in ("1", "2"):
        found[f"A_{part}"] = Normal(0.0, 1 / site.r).expand([site.r, site.d_x])
        found[f"B_{part}"] = torch.zeros(site.d_h, site.r)
    return found


POSITIONS = ("attn.q", "attn.k", "attn.v")
