"""qGOFT: the tournament of GOFT with free 2 x 2 matrices, applied to the input."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    width, used, stride = W.shape[1], 0, 1
    turns = []
    while stride < width:
        for first in range(0, width - stride, 2 * stride):
            turns.append((first, first + stride, params["G"][used]))
            used += 1
        stride *= 2
    entries = list(x.unbind(-1))
    for i, j, turn in reversed(turns):
        # The transpose of the product: the last turn comes first, and each is transposed.
        first, second = entries[i], entries[j]
        entries[i] = turn[0, 0] * first + turn[1, 0] * second
        entries[j] = turn[0, 1] * first + turn[1, 1] * second
    return linear(torch.stack(entries, dim=-1), W, b)


def penalty(site: Any, params: Any) -> Any:
    blocks = params["G"]
    return site.args["beta"] * ((blocks[:, :, 0] * blocks[:, :, 1]).sum(1) ** 2).sum()


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    return {"G": torch.eye(2).expand(W.shape[1] - 1, 2, 2)}


POSITIONS = ("attn.q", "attn.v")
