"""Routing functions: Qu et al. 2024, the element-wise product of both low-rank states."""

import torch


def reference(site, params, x, h, v):
    text = torch.einsum("btd,rd->btr", x, params.A)
    image = torch.einsum("bd,rd->br", v, params.A_v)
    return h + site.alpha / site.r * torch.einsum("btr,br,hr->bth", text, image, params.B)


POSITIONS = ("attn.q", "attn.v")
