"""SVFT: a banded matrix, entry by entry, between singular vectors."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    count, beside = site.args["k"], site.args["w"]
    places = [
        (i, i + offset)
        for offset in range(-beside, beside + 1)
        for i in range(count)
        if 0 <= i + offset < count
    ]
    rows, columns = zip(*places, strict=True)
    middle = torch.zeros(count, count, dtype=W.dtype)
    middle = middle.index_put((torch.tensor(rows), torch.tensor(columns)), params["m"])
    return h + x @ (params["U"] @ middle @ params["V"]).T


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    k, w = site.args["k"], site.args["w"]
    u, _, v = torch.linalg.svd(W, full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, :k]
    held = sum(k - abs(offset) for offset in range(-w, w + 1))
    return {"U": u[:, :k] * signs, "V": v[:k] * signs[:, None], "m": torch.zeros(held)}


FROZEN = ("U", "V")
POSITIONS = ("attn.q", "attn.v")
