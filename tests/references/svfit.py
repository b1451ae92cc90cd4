"""SVFit: the change of the leading singular values."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    change = torch.diag(params["s"]) - torch.diag(params["s_0"])
    return h + x @ (params["U"] @ change @ params["V"]).T


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    rank = site.args["r"]
    u, s, v = torch.linalg.svd(W, full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, :rank]
    return {
        "U": u[:, :rank] * signs,
        "V": v[:rank] * signs[:, None],
        "s": s[:rank],
        "s_0": s[:rank],
    }


FROZEN = ("U", "V", "s_0")
POSITIONS = ("attn.q", "attn.v")
