"""CapaBoost: one masked pair after the other, as one dense update."""

from typing import Any

import torch
from torch.distributions import Uniform


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    update = torch.zeros_like(W)
    for up, down in zip(params["M"], params["N"], strict=True):
        update = update + (up * params["B"]) @ (down * params["A"])
    return h + site.args["alpha"] / site.args["r"] * (x @ update.T)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    (d_h, d_x), r, copies = W.shape, site.args["r"], site.args["K"]
    density = site.args["density"]

    def mask(*shape: int) -> Any:
        def holds(drawn: Any) -> bool:
            kept, spread = drawn.mean(), (density * (1 - density) / drawn.numel()) ** 0.5
            whole = bool(((drawn == 0) | (drawn == 1)).all())
            return drawn.shape[1:] == shape and whole and bool(abs(kept - density) <= 5 * spread)

        return holds

    return {
        "A": Uniform(-(d_x**-0.5), d_x**-0.5).expand([r, d_x]),
        "B": torch.zeros(d_h, r),
        "N": mask(copies, r, d_x),
        "M": mask(copies, d_h, r),
    }


FROZEN = ("M", "N")
POSITIONS = ("attn.q", "attn.v")
