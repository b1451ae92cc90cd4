"""VB-LoRA: Li et al. 2024, each piece of a factor a mixture of the k likeliest vectors."""

import torch
from torch.distributions import Normal, Uniform


def _pieces(logits, bank, k):
    """``[r, d]``: of each piece's logits, the k largest choose and weigh vectors of the bank."""
    best, which = logits.topk(k, dim=-1)
    weights = torch.softmax(best, dim=-1)
    return (weights[..., None] * bank[which]).sum(-2).flatten(1)


def reference(site, params, x, h):
    down = _pieces(params.L_A, params.V, site.k)
    up = _pieces(params.L_B, params.V, site.k)
    return h + torch.einsum("btd,rd,rh->bth", x, down, up)


def initial(site, W, b):
    d_h, d_x = W.shape
    return {
        "V": Uniform(-0.02, 0.02).expand([site.n, site.b]),
        "L_A": Normal(0.0, 0.1).expand([site.r, d_x // site.b, site.n]),
        "L_B": Normal(0.0, 0.1).expand([site.r, d_h // site.b, site.n]),
    }


SHARED = {"V": "model"}
POSITIONS = ("attn.q", "attn.v")
