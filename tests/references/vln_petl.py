"""VLN-PETL: Qiao et al. 2023, boosters of history and of the other modality, adapters and LoRA."""

import torch
from torch.distributions import Normal, Uniform


def _heads(tokens, down):
    """``[batch, heads, tokens, e]``: each head's projection of every token."""
    return torch.einsum("btd,med->bmte", tokens, down)


def _attended(q, z, causal=False):
    scores = q @ z.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        later = torch.ones_like(scores, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    return (weights @ z).transpose(1, 2).flatten(2)


def reference(site, params, x, h, y=None):
    if "A" in params:
        return h + site.alpha / site.r * (x @ params.A.T @ params.B.T)
    if "W_d" in params:
        return h + site.act(h @ params.W_d.T + params.b_d) @ params.W_u.T + params.b_u
    if y is None:
        z = _heads(h, params.D)
        return h + _attended(z, z, site.causal) @ params.U.T
    return h + _attended(_heads(x, params.D), _heads(y, params.D_y)) @ params.U.T


def initial(site, W, b):
    small, d_h = Normal(0.0, 0.02), site.d_h
    if site.role in ("attn.q", "attn.v"):
        bound = site.d_x**-0.5
        low = Uniform(-bound, bound).expand([site.r, site.d_x])
        return {"A": low, "B": torch.zeros(d_h, site.r)}
    if site.role == "ffn":
        zeros = {"b_d": torch.zeros(site.r), "W_u": torch.zeros(d_h, site.r)}
        return {"W_d": small.expand([site.r, d_h]), "b_u": torch.zeros(d_h), **zeros}
    heads = {"U": torch.zeros(d_h, site.m * site.e)}
    if site.role == "attn":
        return {"D": small.expand([site.m, site.e, d_h]), **heads}
    down = {"D": site.d_x, "D_y": site.d_y}
    return {n: small.expand([site.m, site.e, d]) for n, d in down.items()} | heads


POSITIONS = ("attn.q", "attn.v", "ffn in encoder", "attn in encoder", "cross_attn")
