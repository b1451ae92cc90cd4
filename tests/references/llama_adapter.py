"""LLaMA-Adapter: Zhang et al. 2023, eq. 4-7: the prompt's attention has a softmax of its own."""

import torch
from torch.distributions import Normal


def reference(site, params, q, h, W_k, W_v):
    groups = site.heads // site.kv_heads
    keys = (params.A @ W_k.T).view(-1, site.kv_heads, site.d_head).repeat_interleave(groups, 1)
    values = (params.A @ W_v.T).view(-1, site.kv_heads, site.d_head).repeat_interleave(groups, 1)
    weights = torch.softmax(torch.einsum("bthd,nhd->bthn", q, keys) * site.scale, dim=-1)
    return h + params.g * torch.einsum("bthn,nhd->bthd", weights, values)


def initial(site, W, b):
    return {"A": Normal(0.0, 0.02).expand([site.l, site.d_x]), "g": torch.zeros(())}


POSITIONS = ("attn.core",)
