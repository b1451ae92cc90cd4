"""LoReFT: Wu et al. 2024, eq. 2, on the first and last tokens; R by Gram-Schmidt, row by row."""

import torch
from torch.distributions import Uniform


def reference(site, params, h):
    basis = []
    for row in params.M:
        for done in basis:
            row = row - (done @ row) * done
        basis.append(row / row.norm())
    R = torch.stack(basis)
    edited = h + (h @ params.W_s.T + params.b_s - h @ R.T) @ R
    place = torch.arange(h.shape[1])
    chosen = (place < site.first) | (place >= h.shape[1] - site.last)
    return torch.where(chosen[:, None], edited, h)


def initial(site, W, b):
    r, d_h = site.r, site.d_h
    return {
        "M": lambda M: (
            M.shape[1:] == (r, d_h)
            and torch.allclose(M @ M.mT, torch.eye(r, dtype=M.dtype), atol=1e-5)
        ),
        "W_s": Uniform(-(d_h**-0.5), d_h**-0.5).expand([r, d_h]),
        "b_s": torch.zeros(r),
    }


POSITIONS = ("block",)
