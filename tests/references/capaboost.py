"""CapaBoost: one masked pair after the other, as one dense update."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    update = torch.zeros_like(W)
    for up, down in zip(params["M"], params["N"], strict=True):
        update = update + (up * params["B"]) @ (down * params["A"])
    return h + site.args["alpha"] / site.args["r"] * (x @ update.T)


FROZEN = ("M", "N")
POSITIONS = ("attn.q", "attn.v")
