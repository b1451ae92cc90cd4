"""P-tuning: Liu et al. 2021, section 3: an MLP makes the soft prompt."""

import torch
from torch.distributions import Normal, Uniform
from torch.nn import functional


def reference(site, params, h):
    hidden = functional.relu(functional.linear(params.E, params.W_1, params.b_1))
    prompt = functional.linear(hidden, params.W_2, params.b_2)
    return torch.cat([prompt.expand(len(h), -1, -1), h], dim=1)


def initial(site, W, b):
    bound, e = site.e**-0.5, site.e
    return {
        "E": Normal(0.0, 1.0).expand([site.l, e]),
        "W_1": Uniform(-bound, bound).expand([e, e]),
        "b_1": torch.zeros(e),
        "W_2": Uniform(-bound, bound).expand([site.d_h, e]),
        "b_2": torch.zeros(site.d_h),
    }


POSITIONS = ("prompt",)
