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


FROZEN = ("U", "V")
POSITIONS = ("attn.q", "attn.v")
