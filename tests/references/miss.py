"""MiSS: the shard beside itself until it is as wide as the weight."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    shard = params["D"]
    return h + x @ torch.cat([shard] * (W.shape[1] // shard.shape[1]), dim=1).T


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    return {"D": torch.zeros(W.shape[0], site.args["r"])}


POSITIONS = ("linear",)
