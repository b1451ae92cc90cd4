"""Bridger within CLIP: Xu et al. 2023; attention of m heads over the other tower, narrowed."""

import torch
from torch.distributions import Normal, Uniform
from torch.nn import functional


def reference(site, params, h, c, t=None, v=None):
    other = (v if t is None else t) @ params.T.T
    own = functional.layer_norm(h @ params.D.T + c, (site.m * site.e,), eps=1e-5)
    q, k, value = (
        torch.einsum("btr,mer->bmte", tokens, weight)
        for tokens, weight in ((own, params.Q), (other, params.K), (other, params.V))
    )
    scores = q @ k.transpose(-1, -2) / site.e**0.5
    read = (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2) @ params.O.T
    return {"h": h + (own * read) @ params.U.T, "c": own}


def initial(site, W, b):
    r, small = site.m * site.e, Normal(0.0, 0.02)
    within = Uniform(-(r**-0.5), r**-0.5)
    other = site.sizes["d_t"] if "d_t" in site.sizes else site.sizes["d_v"]
    return {
        "c": torch.zeros(r),
        "D": small.expand([r, site.d_h]),
        "T": small.expand([r, other]),
        **dict.fromkeys("QKV", within.expand([site.m, site.e, r])),
        "O": within.expand([r, r]),
        "U": small.expand([site.d_h, r]),
    }


POSITIONS = ("block in vision_model", "block in layers[1..] in text_model")
