"""Late prompt tuning: Liu et al. 2022, the naive prompt generator, on the first token's state."""

import torch
from torch.distributions import Uniform
from torch.nn import functional


def reference(site, params, h):
    first = h[:, 0]
    inner = torch.clamp(functional.linear(first, params.W_1, params.b_1), min=0)
    prompt = functional.linear(inner, params.W_2, params.b_2).view(len(h), site.l, h.shape[-1])
    return torch.cat([functional.dropout(prompt, site.p, site.training), h], dim=1)


def initial(site, W, b):
    into, out = site.d_h**-0.5, site.m**-0.5
    return {
        "W_1": Uniform(-into, into).expand([site.m, site.d_h]),
        "b_1": Uniform(-into, into).expand([site.m]),
        "W_2": Uniform(-out, out).expand([site.l * site.d_h, site.m]),
        "b_2": Uniform(-out, out).expand([site.l * site.d_h]),
    }


POSITIONS = ("prompt in layers[1]",)
TRAINING = True
