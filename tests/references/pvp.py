"""PVP over shallow visual prompts: Jia et al. 2022, eq. 4, with their release's start."""

import torch
from torch.distributions import Uniform


def reference(site, params, h):
    return torch.cat([params.P.expand(len(h), -1, -1), h], dim=1)


def initial(site, W, b):
    bound = (6 / (3 * site.p**2 + site.d_h)) ** 0.5
    return {"P": Uniform(-bound, bound).expand([site.l, site.d_h])}


POSITIONS = ("prompt",)
