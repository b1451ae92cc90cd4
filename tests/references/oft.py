"""OFT: Qiu et al. 2023, section 3: blocks of the input are rotated by Cayley transforms."""

import torch
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    skew = (params.Q - params.Q.mT) / 2
    eye = torch.eye(site.b, dtype=W.dtype)
    blocks = (eye - skew) @ torch.linalg.inv(eye + skew)
    return linear(x, W @ torch.block_diag(*blocks).T, b)


def initial(site, W, b):
    size = site.b
    return {"Q": torch.zeros(W.shape[1] // size, size, size)}


POSITIONS = ("attn.q", "attn.v")
