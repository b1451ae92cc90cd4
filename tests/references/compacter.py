"""Compacter: sums of Kronecker products, written out."""

from typing import Any

import torch
from torch.nn.functional import gelu


def reference(site: Any, params: Any, h: Any) -> Any:
    act = getattr(site, "act", gelu)

    def matrix(columns: Any, rows: Any) -> Any:
        slow = params["S"]
        return sum(torch.kron(s, c @ r) for s, c, r in zip(slow, columns, rows, strict=True))

    inner = act(h @ matrix(params["s_d"], params["t_d"]).T + params["b_d"])
    return h + inner @ matrix(params["s_u"], params["t_u"]).T + params["b_u"]


SHARED = {"S": "model"}
POSITIONS = ("attn", "cross_attn", "ffn")
