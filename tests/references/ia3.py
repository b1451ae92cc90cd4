"""(IA)3: Liu et al. 2022, section 3.3."""

import torch


def reference(site, params, h):
    return h * params.l


def initial(site, W, b):
    return {"l": torch.ones(site.d_h)}


POSITIONS = ("attn.k", "attn.v", "cross_attn.k", "cross_attn.v", "ffn.act")
