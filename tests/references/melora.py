"""MELoRA: a LoRA for each part of the input, written to its part of the output."""

from typing import Any

import torch
from torch.distributions import Uniform


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    parts = x.chunk(site.args["n"], dim=-1)
    paths = [p @ down.T @ up.T for p, down, up in zip(parts, params["A"], params["B"], strict=True)]
    return h + site.args["alpha"] / site.args["r"] * torch.cat(paths, dim=-1)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    (d_h, d_x), n, r = W.shape, site.args["n"], site.args["r"]
    bound = (d_x / n) ** -0.5
    return {
        "A": Uniform(-bound, bound).expand([n, r, d_x // n]),
        "B": torch.zeros(n, d_h // n, r),
    }


POSITIONS = ("attn.q", "attn.v")
