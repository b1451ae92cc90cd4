"""HRA: one reflection of the weight's input after the other."""

from typing import Any

import torch
from torch.nn.functional import linear


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    changed = W
    for u in params["U"]:
        unit = u / u.norm()
        changed = changed - 2 * torch.outer(changed @ unit, unit)
    return linear(x, changed, b)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    bound = W.shape[1] ** -0.5

    def in_pairs(value: Any) -> bool:
        inside = bool((value.abs() <= bound).all()) and bool(value.std() > bound / 4)
        return inside and torch.equal(value[0::2], value[1::2])

    return {"U": in_pairs}


POSITIONS = ("attn.q", "attn.v")
