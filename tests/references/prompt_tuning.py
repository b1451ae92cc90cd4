"""Prompt tuning: Lester et al. 2021, section 2: the learned rows stand before the embeddings."""

import torch
from torch.distributions import Uniform


def reference(site, params, h):
    return torch.stack([torch.cat([params.P, row]) for row in h])


def initial(site, W, b):
    return {"P": Uniform(-0.5, 0.5).expand([site.l, site.d_h])}


POSITIONS = ("prompt",)
