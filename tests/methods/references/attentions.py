"""Methods on the attention product."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from tests.methods.references import splice
from tests.methods.references.anatomy import Anatomy
from tests.methods.references.reference import Args, Reference, Tensors
from tests.methods.references.splice import AttentionCall
from tests.methods.references.sublayers import scaled_parallel_adapter
from tests.methods.references.weights import Weights


def _on_cores(core: Callable[[Tensors, AttentionCall], Tensor]) -> Reference:
    def reference(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
        splice.spell_out_attention(model)
        for layer in anatomy.layers:
            for role, attention in layer.attentions():
                p = weights.at(f"{role}.core", layer)
                splice.change_core(model, attention, partial(core, p))

    return reference


def _concatenated(p: Tensors, call: AttentionCall) -> Tensor:
    scores = torch.cat([call.prefix_scores(p["P_k"]), call.scores()], dim=-1)
    values = torch.cat([call.spread(p["P_v"]), call.v], dim=-2)
    return torch.softmax(scores, dim=-1) @ values


def _gated(p: Tensors, call: AttentionCall) -> Tensor:
    ours, theirs = call.prefix_scores(p["P_k"]).exp(), call.scores().exp()
    mass = ours.sum(-1, keepdim=True)
    gate = mass / (mass + theirs.sum(-1, keepdim=True))
    own = theirs / theirs.sum(-1, keepdim=True) @ call.v
    return (1 - gate) * own + gate * (ours / mass @ call.spread(p["P_v"]))


def _headwise(p: Tensors, call: AttentionCall) -> Tensor:
    return splice.plain_core(call) + relu(call.prefix_scores(p["P_k"])) @ call.spread(p["P_v"])


prefix, prefix_gated = _on_cores(_concatenated), _on_cores(_gated)
multi_head_parallel_adapter = _on_cores(_headwise)


def mam(model: nn.Module, anatomy: Anatomy, weights: Weights, args: Args) -> None:
    prefix(model, anatomy, weights, args)
    scaled_parallel_adapter(model, anatomy, weights, args)
