"""CPE-CLIP, mode "replace": D'Alessandro et al. 2023; places in front, filled before each layer."""

import torch
from torch.distributions import Uniform


def reference(site, params, x=None, h=None):
    if site.role == "prompt":
        return torch.cat([h.new_zeros(len(h), site.l, h.shape[-1]), h], dim=1)
    prompts = torch.nn.functional.linear(params.G, params.V, params.b)
    count = min(len(prompts), x.shape[1])
    return {"x": torch.cat([prompts[:count].expand(len(x), -1, -1), x[:, count:]], dim=1)}


def initial(site, W, b):
    if site.role == "prompt":
        return {"Z": torch.zeros(site.l, site.d_h)}
    xavier, kaiming = (6 / (site.l + site.d_g)) ** 0.5, site.d_g**-0.5
    return {
        "G": Uniform(-xavier, xavier).expand([site.l, site.d_g]),
        "V": Uniform(-kaiming, kaiming).expand([site.d_x, site.d_g]),
        "b": torch.zeros(site.d_x),
    }


FROZEN = ("Z",)
SHARED = {"G": "stacks", "V": "stack", "b": "stack"}
POSITIONS = ("prompt", "block in layers[..11]")
