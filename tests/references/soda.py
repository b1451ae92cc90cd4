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


FROZEN = ("U", "V")
POSITIONS = ("attn.q", "attn.v")
