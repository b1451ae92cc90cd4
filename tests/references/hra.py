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
    shape, bound = (site.args["r"], W.shape[1]), W.shape[1] ** -0.5

    def in_pairs(draws: Any) -> bool:
        """Pairs that are equal, neighbours of two pairs that are not, and the whole range.

        The last of an odd number stands alone.
        """
        pairs = shape[0] // 2
        first, second = draws[:, 0 : 2 * pairs : 2], draws[:, 1 : 2 * pairs : 2]
        before, after = draws[:, 1:-1:2], draws[:, 2::2]
        apart = not torch.equal(before, after) or shape[0] <= 2
        widest = float(draws.abs().max()) / bound
        return (
            draws.shape[1:] == shape and torch.equal(first, second) and apart and 0.99 < widest <= 1
        )

    return {"U": in_pairs}


POSITIONS = ("attn.q", "attn.v")
