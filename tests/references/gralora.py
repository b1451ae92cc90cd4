"""GraLoRA: one low-rank matrix at each place of a k by k grid."""

from typing import Any

import torch
from torch.distributions import Uniform


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    k, r = site.args["k"], site.args["r"]
    rows, columns = W.shape[0] // k, W.shape[1] // k
    grid = []
    for i in range(k):
        line = []
        for j in range(k):
            # The last row of sub-blocks counts fastest in A; B has its columns in order.
            block = torch.zeros(rows, columns, dtype=W.dtype)
            for s in range(r // k):
                up, down = params["B"][i][:, j * (r // k) + s], params["A"][j, s, i]
                block = block + torch.outer(up, down)
            line.append(block)
        grid.append(torch.cat(line, dim=1))
    return h + site.args["alpha"] / r * (x @ torch.cat(grid, dim=0).T)


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    (d_h, d_x), k, r = W.shape, site.args["k"], site.args["r"]
    bound = (d_x / k) ** -0.5
    return {
        "A": Uniform(-bound, bound).expand([k, r // k, k, d_x // k]),
        "B": torch.zeros(k, d_h // k, r),
    }


POSITIONS = ("attn.q", "attn.v")
