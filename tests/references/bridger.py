"""Bridger within CLIP: Xu et al. 2023; one head of attention over the other tower, narrowed."""

import torch
from torch.distributions import Normal, Uniform
from torch.nn import functional


def reference(site, params, h, c, t=None, v=None):
    other = (v if t is None else t) @ params.T.T
    own = functional.layer_norm(h @ params.D.T + c, (site.r,), eps=1e-5)
    scores = (own @ params.Q.T) @ (other @ params.K.T).transpose(-1, -2)
    read = torch.softmax(scores / site.r**0.5, dim=-1) @ (other @ params.V.T)
    return {"h": h + (own * read) @ params.U.T, "c": own}


def initial(site, W, b):
    r, small = site.r, Normal(0.0, 0.02)
    within = Uniform(-(r**-0.5), r**-0.5).expand([r, r])
    other = site.sizes["d_t"] if "d_t" in site.sizes else site.sizes["d_v"]
    return {
        "c": torch.zeros(r),
        "D": small.expand([r, site.d_h]),
        "T": small.expand([r, other]),
        **dict.fromkeys("QKV", within),
        "U": small.expand([site.d_h, r]),
    }


POSITIONS = ("block in vision_model", "block in layers[1..] in text_model")
