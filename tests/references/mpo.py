"""MPO adaptation: the operator contracted in one go, with the auxiliary tensors of each."""

from typing import Any

import torch
from torch.nn.functional import pad


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    def whole(left: Any, right: Any) -> Any:
        found = torch.einsum("aijr,rkls,smnb->ikmjln", left, params["C"], right)
        return found.reshape(W.shape)

    update = whole(params["A"], params["B"]) - whole(params["A_0"], params["B_0"])
    return h + x @ update.T


def initial(site: Any, W: Any, b: Any) -> dict[str, Any]:
    n, r = site.args["n"], site.args["r"]
    rows, columns = W.shape[0] // n**2, W.shape[1] // n**2

    def split(matrix: Any) -> tuple[Any, Any]:
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
        left, right = u * signs, s[:, None] * v * signs.T
        lacking = max(0, r - len(s))
        return pad(left, (0, lacking))[:, :r], pad(right, (0, 0, 0, lacking))[:r]

    pairs = W.reshape(n, rows, n, n, columns, n).permute(0, 3, 1, 4, 2, 5)
    left, rest = split(pairs.reshape(n * n, -1))
    middle, right = split(rest.reshape(r * rows * columns, n * n))
    left, right = left.reshape(1, n, n, r), right.reshape(r, n, n, 1)
    return {
        "A": left,
        "C": middle.reshape(r, rows, columns, r),
        "B": right,
        "A_0": left,
        "B_0": right,
    }


FROZEN = ("A_0", "B_0", "C")
POSITIONS = ("ffn.up", "ffn.down")
