"""Deep prompts: Jia et al. 2022, eq. 6: soft tokens in front, replaced before each later layer."""

import torch
from torch.distributions import Normal


def reference(site, params, x=None, h=None):
    if site.role == "prompt":
        return torch.cat([params.P.expand(len(h), -1, -1), h], dim=1)
    count = min(len(params.P), x.shape[1])
    return {"x": torch.cat([params.P[:count].expand(len(x), -1, -1), x[:, count:]], dim=1)}


def initial(site, W, b):
    return {
        "P": Normal(0.0, 0.02).expand([site.l, site.d_h if site.role == "prompt" else site.d_x])
    }


POSITIONS = ("prompt", "block in layers[1..]")
