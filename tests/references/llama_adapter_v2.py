"""LLaMA-Adapter V2: Gao et al. 2023, section 3: gates of each head; scales in, shifts out."""

import torch
from torch.distributions import Normal


def reference(site, params, x, h, W=None, b=None, q=None, W_k=None, W_v=None):
    if not site.role.endswith("core"):
        return torch.nn.functional.linear(params.s * x, W, b) + params.c
    heads = []
    for head in range(site.heads):
        group = head // (site.heads // site.kv_heads)
        rows = slice(group * site.d_head, (group + 1) * site.d_head)
        scores = q[:, :, head] @ (params.A @ W_k[rows].T).T * site.scale
        read = torch.softmax(scores, dim=-1) @ (params.A @ W_v[rows].T)
        heads.append(h[:, :, head] + torch.tanh(params.g[head]) * read)
    return torch.stack(heads, dim=2)


def initial(site, W, b):
    if site.role.endswith("core"):
        return {"A": Normal(0.0, 0.02).expand([site.l, site.d_x]), "g": torch.zeros(site.heads)}
    return {"s": torch.ones(site.d_x), "c": torch.zeros(site.d_h)}


def trained(model):
    """The gain of every norm."""
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    return {n for n, _ in model.named_parameters() if n in {f"{path}.weight" for path in norms}}


POSITIONS = ("attn.core", "linear")
