"""MixPHM: Jiang and Zheng 2023: one expert at random in training, and then their mean."""

import torch
from torch.distributions import Normal, Uniform
from torch.nn.functional import dropout


def _phm(rules, left, right):
    """The sum of Kronecker products of the rules with matrices of low rank."""
    return sum(torch.kron(*three) for three in zip(rules, left @ right, strict=True))


def reference(site, params, h):
    n = site.n
    pairs = [(params.u_d[i * n : i * n + n], params.v_d[i * n : i * n + n]) for i in range(site.N)]
    inner = [site.act(h @ _phm(params.S, u, v).T) for u, v in pairs]
    hidden = inner[torch.rand(site.N).argmax()] if site.training else sum(inner) / site.N
    up = _phm(params.S, params.u_u, params.v_u)
    return h + site.s * dropout(hidden, site.p, site.training) @ up.T


def initial(site, W, b):
    N, n, k, r, d = site.N, site.n, site.k, site.r, site.d_h

    def xavier(*shape):
        bound = (6 / (shape[-1] + shape[-2])) ** 0.5
        return Uniform(-bound, bound).expand(shape)

    return {
        "S": Normal(0.0, 0.01).expand([n, n, n]),
        "u_d": xavier(N * n, r // n, k),
        "v_d": xavier(N * n, k, d // n),
        "u_u": torch.zeros(n, d // n, k),
        "v_u": xavier(n, k, r // n),
    }


POSITIONS = ("attn", "cross_attn", "ffn")
SHARED = {"S": "model"}
TRAINING = True
