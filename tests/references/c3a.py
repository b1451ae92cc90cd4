"""C3A: every block of the update is circulant, its first row the kernel."""

from typing import Any

import torch


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    kernels = params["w"]
    inputs, outputs, width = kernels.shape
    update = torch.zeros(outputs * width, inputs * width, dtype=kernels.dtype)
    for i in range(outputs):
        for j in range(inputs):
            rows = torch.stack([kernels[j, i].roll(k) for k in range(width)])
            block = torch.zeros_like(update)
            block[i * width : (i + 1) * width, j * width : (j + 1) * width] = rows
            update = update + block
    return h + x @ update.T / x.shape[-1]


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    bound = (6 / sum(W.shape)) ** 0.5
    shape = (W.shape[1] // site.args["b"], W.shape[0] // site.args["b"], site.args["b"])
    return {"w": torch.distributions.Uniform(-bound, bound).expand(shape)}


POSITIONS = ("attn.q", "attn.v")
