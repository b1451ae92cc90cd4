"""Routing functions: Qu et al. 2024, the element-wise product of both low-rank states."""

import torch
from torch.distributions import Uniform


def reference(site, params, x, h, v):
    text = torch.einsum("btd,rd->btr", x, params.A)
    image = torch.einsum("bd,rd->br", v, params.A_v)
    return h + site.alpha / site.r * torch.einsum("btr,br,hr->bth", text, image, params.B)


def initial(site, W, b):
    text, image = site.d_x**-0.5, site.d_v**-0.5
    return {
        "A": Uniform(-text, text).expand([site.r, site.d_x]),
        "A_v": Uniform(-image, image).expand([site.r, site.d_v]),
        "B": torch.zeros(site.d_h, site.r),
    }


POSITIONS = ("attn.q", "attn.v")
