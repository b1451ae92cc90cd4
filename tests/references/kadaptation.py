"""KAdaptation: slow and fast weights of rank one and r, multiplied out (He et al. 2023)."""

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    factors = zip(params.P, params.Q, params.U, params.V, strict=True)
    delta = sum(torch.kron(p @ q, u @ v) for p, q, u, v in factors)
    return linear(x, W + site.s * delta, b) + params.c


def initial(site, W, b):
    d_h, d_x = W.shape
    t, r = site.t, site.r

    def glorot(rows, columns):
        bound = (6 / (rows + columns)) ** 0.5
        return Uniform(-bound, bound).expand([t, rows, columns])

    return {
        "P": glorot(t, 1),
        "Q": glorot(1, t),
        "U": torch.zeros(t, d_h // t, r),
        "V": glorot(r, d_x // t),
        "c": torch.zeros(d_h),
    }


SHARED = {"P": "layers", "Q": "layers"}
POSITIONS = ("attn.q", "attn.v")
