"""HiRA: the update is the weight times a low-rank matrix, entry by entry."""

from typing import Any

import torch
from torch.distributions import Uniform
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    return h + linear(x, W * (params["B"] @ params["A"]))


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    d_h, d_x = W.shape
    r = site.args["r"]
    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B": torch.zeros(d_h, r),
    }


POSITIONS = ("attn.q", "attn.v")
