"""Bridger within CLIP: Xu et al. 2023; one head of attention over the other tower, narrowed."""

import torch
from torch.nn import functional


def reference(site, params, h, c, t=None, v=None):
    other = (v if t is None else t) @ params.T.T
    own = functional.layer_norm(h @ params.D.T + c, (site.r,), eps=1e-5)
    scores = (own @ params.Q.T) @ (other @ params.K.T).transpose(-1, -2)
    read = torch.softmax(scores / site.r**0.5, dim=-1) @ (other @ params.V.T)
    return h + (own * read) @ params.U.T
