"""OLoRA: the weight without the leading QR factors, and what is trained of them."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    scale = site.args["alpha"] / site.args["r"]
    residual = W - scale * params["B_0"] @ params["A_0"]
    return linear(x, residual + scale * params["B"] @ params["A"], b)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    rank = site.args["r"]
    q, r = torch.linalg.qr(W)
    signs = torch.diagonal(r).sign()
    up, down = (q * signs)[:, :rank], (signs[:, None] * r)[:rank]
    return {"A": down, "B": up, "A_0": down, "B_0": up}


FROZEN = ("A_0", "B_0")
POSITIONS = ("attn.q", "attn.v")
