"""SODA: shifted singular values, then two rotations of the input."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    def rotation(free: Any) -> Any:
        skew, eye = (free - free.T) / 2, torch.eye(len(free), dtype=free.dtype)
        return (eye - skew) @ torch.linalg.inv(eye + skew)

    shifted = W + params["U"] @ torch.diag(params["delta"]) @ params["V"]
    return linear(x, shifted @ torch.kron(rotation(params["Q_1"]), rotation(params["Q_2"])), b)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    d_x, r, p = W.shape[1], site.args["r"], site.args["p"]
    u, _, v = torch.linalg.svd(W, full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, :r]
    return {
        "U": u[:, :r] * signs,
        "V": v[:r] * signs[:, None],
        "delta": torch.zeros(r),
        "Q_1": torch.zeros(p, p),
        "Q_2": torch.zeros(d_x // p, d_x // p),
    }


FROZEN = ("U", "V")
POSITIONS = ("attn.q", "attn.v")
