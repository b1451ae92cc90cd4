"""VeRA: Kopiczko et al. 2024, eq. 2: Lambda_b B Lambda_d A, written with diagonal matrices."""

import torch
from torch.distributions import Uniform


def reference(site, params, x, h):
    update = params.lambda_b.diag() @ params.B @ params.lambda_d.diag() @ params.A
    return h + x @ update.T


def initial(site, W, b):
    d_h, d_x = W.shape
    r = site.r
    return {
        "A": Uniform(-((6 / d_x) ** 0.5), (6 / d_x) ** 0.5).expand([r, d_x]),
        "B": Uniform(-((6 / r) ** 0.5), (6 / r) ** 0.5).expand([d_h, r]),
        "lambda_d": torch.full([r], site.d_initial),
        "lambda_b": torch.zeros(d_h),
    }


POSITIONS = ("attn.q", "attn.v")
FROZEN = ("A", "B")
SHARED = {"A": "layers", "B": "layers"}
