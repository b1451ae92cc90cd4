"""Methods on sub-layers and whole layers."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from tests.methods.references import splice
from tests.methods.references.anatomy import Anatomy
from tests.methods.references.reference import Args, Tensors
from tests.methods.references.weights import Weights


def _bottleneck(p: Tensors, z: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    return act(z @ p["W_d"].T + p["b_d"]) @ p["W_u"].T + p["b_u"]


def _sequential(p: Tensors, x: Tensor, h: Tensor) -> Tensor:
    return h + _bottleneck(p, h, gelu)


def _on_the_stream(p: Tensors, x: Tensor, h: Tensor, resid: Tensor) -> Tensor:
    return h + _bottleneck(p, resid + h, relu)


def _parallel(p: Tensors, scale: float, x: Tensor, h: Tensor) -> Tensor:
    return h + scale * _bottleneck(p, x, relu)


def houlsby(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        places = [(role, part.q.path, part.o.path) for role, part in layer.attentions()]
        for role, first, last in [*places, ("ffn", layer.ffn.up.path, layer.ffn.down.path)]:
            p = weights.at(role, layer)
            splice.change_sublayer(model, first, last, partial(_sequential, p))


def pfeiffer(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        ffn, change = layer.ffn, partial(_on_the_stream, weights.at("ffn", layer))
        splice.change_sublayer(model, ffn.up.path, ffn.down.path, change, ffn.stream)


def parallel_adapter(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        ffn, change = layer.ffn, partial(_parallel, weights.at("ffn", layer), float(args["s"]))
        splice.change_sublayer(model, ffn.up.path, ffn.down.path, change)


scaled_parallel_adapter = parallel_adapter


def _generated(p: Tensors, args: Args, index: int, x: Tensor, h: Tensor) -> Tensor:
    """Each row of the batch with the adapter that its task and the layer make."""
    rows = []
    for task, row in zip(args["task"].tolist(), h, strict=True):
        code = torch.cat([p["z_task"][task], p["z_layer"][index]])
        up = (p["H_u"] @ code).reshape(-1, args["r"])
        down = (p["H_d"] @ code).reshape(args["r"], -1)
        rows.append(row + relu(row @ down.T) @ up.T)
    return torch.stack(rows)


def hyperformer(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    for layer in anatomy.layers:
        places = [("attn", layer.attn.q, layer.attn.o), ("ffn", layer.ffn.up, layer.ffn.down)]
        for role, first, last in places:
            change = partial(_generated, weights.at(role, layer), args, layer.index)
            splice.change_sublayer(model, first.path, last.path, change)


def _gram_schmidt(free: Tensor) -> Tensor:
    rows: list[Tensor] = []
    for row in free:
        for done in rows:
            row = row - (done @ row) * done
        rows.append(row / row.norm())
    return torch.stack(rows)


def _edited(p: Tensors, chosen: Tensor, h: Tensor) -> Tensor:
    basis = _gram_schmidt(p["M"])
    edit = (h @ p["W_s"].T + p["b_s"] - h @ basis.T) @ basis
    return h + chosen.unsqueeze(-1) * edit


def loreft(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    """`chosen` in the arguments says by hand which tokens are edited, for each side."""
    for layer in anatomy.layers:
        p = weights.at("block", layer)
        splice.change_block(model, layer.block, partial(_edited, p, args["chosen"][layer.side]))
