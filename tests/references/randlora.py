"""RandLoRA: a sum over bases, each between its own two diagonals."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    rank = site.args["r"]
    update = torch.zeros_like(W)
    for n, (left, right) in enumerate(zip(params["lambda"], params["gamma"], strict=True)):
        basis = params["B"][:, n * rank : (n + 1) * rank]
        update = update + basis @ torch.diag(left) @ params["A"] @ torch.diag(right)
    return h + site.args["alpha"] / rank * (x @ update.T)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    uniform = torch.distributions.Uniform(-(3**0.5), 3**0.5)
    rank, (d_h, d_x) = site.args["r"], W.shape
    return {
        "A": uniform.expand((rank, d_x)),
        "B": uniform.expand((d_h, d_x)),
        "lambda": torch.zeros(d_x // rank, rank),
        "gamma": torch.full((d_x // rank, d_x), 1 / d_x),
    }


FROZEN = ("A", "B")
SHARED = {"A": "layers", "B": "layers"}
POSITIONS = ("attn.q", "attn.v")
