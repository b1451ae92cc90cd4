"""SURM: two Toeplitz matrices, entry by entry."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    rows, columns = (torch.arange(size) for size in W.shape)
    symmetric = params["c"][(rows[:, None] - rows).abs()]
    general = params["a"][rows[:, None] - columns + len(columns) - 1]
    return h + site.args["s"] * (x @ (symmetric @ general).T)


POSITIONS = ("attn.q", "attn.v")
