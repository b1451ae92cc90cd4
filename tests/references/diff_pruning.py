"""Diff pruning: Guo et al. 2021, section 3.1, with the gates of Louizos et al. 2018, eq. 10-12."""

import math

import torch
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    logits = params.log_alpha
    if site.training:
        u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        logits = (torch.log(u / (1 - u)) + logits) / (2 / 3)
    gates = torch.clamp(torch.sigmoid(logits) * 1.2 - 0.1, 0, 1)
    return linear(x, W + gates * params.D, b)


def penalty(site, params):
    is_open = torch.sigmoid(params.log_alpha - 2 / 3 * math.log(0.1 / 1.1))
    return site.beta * is_open.sum()


def initial(site, W, b):
    return {"D": torch.zeros(W.shape), "log_alpha": torch.full(W.shape, 0.5)}


POSITIONS = ("linear",)
TRAINING = True
