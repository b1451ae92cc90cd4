"""RoAd: the rotation as a matrix, one pair of features at a time."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    theta, alpha = params["theta"], params["alpha"]
    groups, half = theta.shape
    rotation = torch.zeros(h.shape[-1], h.shape[-1], dtype=h.dtype)
    for group in range(groups):
        for pair in range(half):
            first = group * 2 * half + pair
            plane = torch.zeros_like(rotation)
            for row, column, of, sign in (
                (0, 0, torch.cos, 1),
                (0, 1, torch.sin, -1),
                (1, 0, torch.sin, 1),
                (1, 1, torch.cos, 1),
            ):
                unit = torch.zeros_like(rotation)
                unit[first + row * half, first + column * half] = sign
                plane = plane + unit * of(theta[group, pair])
            rotation = rotation + alpha[group, pair] * plane
    return h @ rotation.T


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    pairs = W.shape[0] // site.args["g"], site.args["g"] // 2
    return {"theta": torch.zeros(pairs), "alpha": torch.ones(pairs)}


POSITIONS = ("attn.q", "attn.v")
