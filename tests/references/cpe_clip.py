"""CPE-CLIP, mode "replace": D'Alessandro et al. 2023; places in front, filled before each layer."""

import torch


def reference(site, params, x=None, h=None):
    if site.role == "prompt":
        return torch.cat([h.new_zeros(len(h), site.l, h.shape[-1]), h], dim=1)
    prompts = torch.nn.functional.linear(params.G, params.V, params.b)
    count = min(len(prompts), x.shape[1])
    return {"x": torch.cat([prompts[:count].expand(len(x), -1, -1), x[:, count:]], dim=1)}


FROZEN = ("Z",)
SHARED = {"G": "stacks", "V": "stack", "b": "stack"}
