"""GOFT: every rotation as a matrix, at strides 1, 2, 4, ..."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    width, used, stride = W.shape[1], 0, 1
    total = torch.eye(width, dtype=W.dtype)
    while stride < width:
        for first in range(0, width - stride, 2 * stride):
            cos, sin = torch.cos(params["theta"][used]), torch.sin(params["theta"][used])
            eye, line = torch.eye(width, dtype=W.dtype), torch.zeros(width, dtype=W.dtype)
            ends = line.clone()
            ends[[first, first + stride]] = 1
            one = torch.zeros_like(eye)
            one[first + stride, first], one[first, first + stride] = 1, -1
            turn = eye + torch.diag(ends) * (cos - 1) + one * sin
            total, used = turn @ total, used + 1
        stride *= 2
    return linear(x, W @ total.T, b)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    return {"theta": torch.zeros(W.shape[1] - 1)}


POSITIONS = ("attn.q", "attn.v")
