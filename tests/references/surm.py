"""SURM: two Toeplitz matrices, entry by entry."""

from typing import Any

import torch
from torch.distributions import Normal


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    rows, columns = (torch.arange(size) for size in W.shape)
    symmetric = params["c"][(rows[:, None] - rows).abs()]
    general = params["a"][rows[:, None] - columns + len(columns) - 1]
    return h + site.args["s"] * (x @ (symmetric @ general).T)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    d_h, d_x = W.shape
    return {"a": Normal(0.0, 0.02).expand([d_h + d_x - 1]), "c": torch.zeros(d_h)}


POSITIONS = ("attn.q", "attn.v")
