"""Compacter: sums of Kronecker products, written out."""

from typing import Any

import torch
from torch.distributions import Normal, Uniform
from torch.nn.functional import gelu


def reference(site: Any, params: Any, h: Any) -> Any:
    act = getattr(site, "act", gelu)

    def matrix(columns: Any, rows: Any) -> Any:
        slow = params["S"]
        return sum(torch.kron(s, c @ r) for s, c, r in zip(slow, columns, rows, strict=True))

    inner = act(h @ matrix(params["s_d"], params["t_d"]).T + params["b_d"])
    return h + inner @ matrix(params["s_u"], params["t_u"]).T + params["b_u"]


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    d_h, n, r = site.d_h, site.args["n"], site.args["r"]

    def glorot(rows: int, columns: int) -> Any:
        bound = (6 / (rows + columns)) ** 0.5
        return Uniform(-bound, bound).expand([n, rows, columns])

    return {
        "S": Normal(0.0, 0.01).expand([n, n, n]),
        "s_d": glorot(r // n, 1),
        "t_d": glorot(1, d_h // n),
        "b_d": torch.zeros(r),
        "s_u": torch.zeros(n, d_h // n, 1),
        "t_u": glorot(1, r // n),
        "b_u": torch.zeros(d_h),
    }


SHARED = {"S": "model"}
POSITIONS = ("attn", "cross_attn", "ffn")
