"""Methods on projections: beside them, on their weights, and on their outputs."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from tests.methods.references import splice
from tests.methods.references.anatomy import Anatomy, Layer, Projection
from tests.methods.references.reference import Args, Reference, Tensors
from tests.methods.references.weights import Weights


def _queries_and_values(anatomy: Anatomy) -> list[tuple[str, Layer, Projection]]:
    return [
        (role, layer, projection)
        for layer in anatomy.layers
        for role, projection in (("attn.q", layer.attn.q), ("attn.v", layer.attn.v))
    ]


def _beside(delta: Callable[[Tensors, Args, Tensor], Tensor]) -> Reference:
    """``h + delta(x)`` at queries and values."""

    def change(p: Tensors, args: Args, x: Tensor, h: Tensor) -> Tensor:
        return h + delta(p, args, x)

    def reference(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
        for role, layer, projection in _queries_and_values(anatomy):
            p = weights.at(role, layer)
            splice.change_output(model, projection, partial(change, p, args))

    return reference


def _on_weight(changed: Callable[[Tensors, Args, Tensor], Tensor]) -> Reference:
    """``W' = changed(W)`` at queries and values."""

    def reference(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
        for role, layer, projection in _queries_and_values(anatomy):
            p = weights.at(role, layer)
            splice.change_weight(model, projection, partial(changed, p, args))

    return reference


def _scale(args: Args) -> float:
    return float(args["alpha"] / args["r"])


def _lora(p: Tensors, args: Args, x: Tensor) -> Tensor:
    return _scale(args) * (x @ p["A"].T @ p["B"].T)


def _rslora(p: Tensors, args: Args, x: Tensor) -> Tensor:
    return float(args["alpha"] / math.sqrt(args["r"])) * (x @ p["A"].T @ p["B"].T)


def _vera(p: Tensors, args: Args, x: Tensor) -> Tensor:
    return ((x @ p["A"].T) * p["lambda_d"]) @ p["B"].T * p["lambda_b"]


def _molora(p: Tensors, args: Args, x: Tensor) -> Tensor:
    gates = torch.softmax(x @ p["R"].T, dim=-1)
    experts = [x @ p["A"][e].T @ p["B"][e].T for e in range(args["E"])]
    return torch.stack([gates[..., e, None] * y for e, y in enumerate(experts)]).sum(0)


def _dora(p: Tensors, args: Args, w: Tensor) -> Tensor:
    v = w + _scale(args) * p["B"] @ p["A"]
    length = v.detach().pow(2).sum(dim=1, keepdim=True).sqrt()
    return p["m"].unsqueeze(1) * v / length


def _loha(p: Tensors, args: Args, w: Tensor) -> Tensor:
    return w + _scale(args) * (p["B_1"] @ p["A_1"]) * (p["B_2"] @ p["A_2"])


def _lokr(p: Tensors, args: Args, w: Tensor) -> Tensor:
    blocks = torch.einsum("ij,kl->ikjl", p["C"], p["B"] @ p["A"])
    return w + _scale(args) * blocks.reshape(w.shape)


def _fourierft(p: Tensors, args: Args, w: Tensor) -> Tensor:
    """The inverse transform as a sum of cosines (the spectrum's entries are real)."""
    rows, columns = w.shape
    ys = torch.arange(rows)[:, None, None] * p["E"][:, 0] / rows
    xs = torch.arange(columns)[None, :, None] * p["E"][:, 1] / columns
    waves = torch.cos(2 * math.pi * (ys.double() + xs.double())).to(w.dtype)
    return w + float(args["alpha"]) * (waves @ p["c"]) / (rows * columns)


def _rotations(free: Tensor) -> Tensor:
    """(I - S) (I + S)^-1 of each trailing matrix, by an explicit inverse."""
    skew = (free - free.transpose(-1, -2)) / 2
    eye = torch.eye(free.shape[-1])
    turned: Tensor = (eye - skew) @ torch.linalg.inv(eye + skew)
    return turned


def _oft(p: Tensors, args: Args, w: Tensor) -> Tensor:
    blocks: Tensor = torch.block_diag(*_rotations(p["Q"]))
    return w @ blocks.T


def _butterfly_shuffle(width: int, block: int, stage: int) -> Tensor:
    """P of a factor: inside groups of ``block * 2**stage``, even half blocks before odd ones."""
    halves = torch.arange(width).reshape(-1, 2 ** (stage + 1), block // 2)
    order = torch.cat([halves[:, 0::2], halves[:, 1::2]], dim=1)
    shuffle: Tensor = torch.eye(width)[order.reshape(-1)]
    return shuffle


def _boft(p: Tensors, args: Args, w: Tensor) -> Tensor:
    total = torch.eye(w.shape[1])
    for stage, factor in enumerate(_rotations(p["Q"])):
        shuffle = _butterfly_shuffle(w.shape[1], args["b"], stage)
        total = shuffle @ torch.block_diag(*factor) @ shuffle.T @ total
    return p["s"].unsqueeze(1) * (w @ total.T)


lora, rslora, vera, molora = _beside(_lora), _beside(_rslora), _beside(_vera), _beside(_molora)
dora, loha, lokr = _on_weight(_dora), _on_weight(_loha), _on_weight(_lokr)
fourierft, oft, boft = _on_weight(_fourierft), _on_weight(_oft), _on_weight(_boft)


def _scaled(scale: Tensor, x: Tensor, h: Tensor) -> Tensor:
    return h * scale


def ia3(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        for role, attention in layer.attentions():
            for part, projection in (("k", attention.k), ("v", attention.v)):
                scale = weights.at(f"{role}.{part}", layer)["l"]
                splice.change_output(model, projection, partial(_scaled, scale))
        scale = weights.at("ffn.act", layer)["l"]
        splice.change_input(model, layer.ffn.down.path, partial(torch.mul, scale))


def _shifted(p: Tensors, x: Tensor, h: Tensor) -> Tensor:
    return h + (x @ p["a"] + p["c"]).unsqueeze(-1) * p["v"]


def adapter_bias(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        p = weights.at("ffn.down", layer)
        splice.change_output(model, layer.ffn.down, partial(_shifted, p))


def _gated_difference(p: Tensors, w: Tensor) -> Tensor:
    gates = (torch.sigmoid(p["log_alpha"]) * 1.2 - 0.1).clamp(0, 1)
    return w + gates * p["D"]


def diff_pruning(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for projection in anatomy.linears():
        p = weights.at_path("linear", projection.path)
        splice.change_weight(model, projection, partial(_gated_difference, p))
