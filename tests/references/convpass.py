"""Convpass: Jie and Deng 2022, section 3, patch by patch; other tokens are images of one patch."""

import torch
from torch.distributions import Uniform
from torch.nn import functional


def reference(site, params, x, h):
    z = functional.gelu(x @ params.W_d.T + params.b_d)
    n, middle = params.K.shape[-1], (params.K.shape[-1] - 1) // 2
    first, rows, columns, _ = site.grid
    mixed = []
    for t in range(z.shape[1]):
        place, total = t - first, 0
        if not 0 <= place < rows * columns:
            mixed.append(z[:, t] @ params.K[:, :, middle, middle].T)
            continue
        for i in range(n):
            for j in range(n):
                row, column = place // columns + i - middle, place % columns + j - middle
                if 0 <= row < rows and 0 <= column < columns:
                    total = total + z[:, first + row * columns + column] @ params.K[:, :, i, j].T
        mixed.append(total)
    out = functional.gelu(torch.stack(mixed, dim=1) + params.b_c)
    return h + site.s * (out @ params.W_u.T + params.b_u)


def initial(site, W, b):
    r, n = site.r, site.n
    down, kernel = (6 / (site.d_x + r)) ** 0.5, (6 / (2 * n)) ** 0.5
    return {
        "W_d": Uniform(-down, down).expand([r, site.d_x]),
        "K": Uniform(-kernel, kernel).expand([r, r, n, n]),
        **{name: torch.zeros(r) for name in ("b_d", "b_c")},
        "W_u": torch.zeros(site.d_h, r),
        "b_u": torch.zeros(site.d_h),
    }


POSITIONS = ("attn", "ffn")
