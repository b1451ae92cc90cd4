"""MixPHM: Jiang and Zheng 2023: one expert at random in training, and then their mean."""

import torch
from torch.distributions import Normal


def reference(site, params, h):
    outputs = [site.act(h @ down.T) @ params.U.T for down in params.D]
    if site.training:
        return h + site.s * outputs[torch.rand(site.N).argmax()]
    return h + site.s * sum(outputs) / site.N


def initial(site, W, b):
    return {
        "D": Normal(0.0, 0.02).expand([site.N, site.r, site.d_h]),
        "U": torch.zeros(site.d_h, site.r),
    }


POSITIONS = ("attn", "cross_attn", "ffn")
TRAINING = True
