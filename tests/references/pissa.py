"""PiSSA: the weight without its principal part, and a low-rank matrix in its place."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    scale = site.args["alpha"] / site.args["r"]
    residual = W - scale * params["B_0"] @ params["A_0"]
    return linear(x, residual + scale * params["B"] @ params["A"], b)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    rank = site.args["r"]
    u, s, v = torch.linalg.svd(W, full_matrices=False)
    root = (s[:rank] * rank / site.args["alpha"]).sqrt()
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, :rank]
    down, up = (signs * root)[:, None] * v[:rank], u[:, :rank] * root * signs
    return {"A": down, "B": up, "A_0": down, "B_0": up}


FROZEN = ("A_0", "B_0")
POSITIONS = ("attn.q", "attn.v")
