"""ShareLoRA: at one site it is LoRA."""

from typing import Any

import torch
from torch.distributions import Uniform


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    return h + site.args["alpha"] / site.args["r"] * (x @ params["A"].T @ params["B"].T)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    d_h, d_x = W.shape
    r = site.args["r"]
    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B": torch.zeros(d_h, r),
    }


SHARED = {"A": "layers"}
POSITIONS = ("attn.q", "attn.v")
