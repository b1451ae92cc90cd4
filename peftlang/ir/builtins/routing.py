"""Choosing among experts: gates that keep a few, random choice, noise."""

from typing import Any

from peftlang.ir.builtins.layout import axes
from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply
from peftlang.ir.types import Type, TypeFact


def _along_one(call: Signature) -> Type:
    have = call.tensor()
    if len(call.over) != 1:
        raise TypeFact(
            "T207",
            "which dimension it chooses along is not said",
            help=f"add `over` and one of {have}",
        )
    if have.dims.count(call.over[0]) != 1:
        how = "occurs more than once in" if call.over[0] in have.dims else "is not a dimension of"
        raise TypeFact("T207", f"`{call.over[0]}` {how} {have}", 0, help=f"name one of {have}")
    return have


def _gates_rule(call: Signature) -> Type:
    have = _along_one(call)
    call.dim(1)
    return Type(have.dims, have.level)


def _one_rule(call: Signature) -> Type:
    have = _along_one(call)
    return Type(tuple(d for d in have.dims if d not in call.over), have.level)


def _same_rule(call: Signature) -> Type:
    have = call.tensor()
    return Type(have.dims, have.level)


def _jitter_rule(call: Signature) -> Type:
    if not call.is_number(1):
        raise TypeFact("T209", "the width of the noise is a number", 1)
    return _same_rule(call)


def _most(call: Apply) -> tuple[int, tuple[Dim, ...]]:
    return 1, call.over


def _chosen(call: Evaluation) -> Any:
    gates, axis = call.args[0], axes(call.types[0], call.over)[0]
    count = min(int(call.args[1]), call.size(call.over[0]))
    places = call.t.topk(gates.detach(), count, dim=axis)[1]
    return call.t.zeros_like(gates.detach()).scatter(axis, places, 1.0)


def _topk(call: Evaluation) -> Any:
    return call.args[0] * _chosen(call)


def _one_of(call: Evaluation) -> Any:
    value, axis = call.args[0], axes(call.types[0], call.over)[0]
    if not call.training:
        return value.mean(axis)
    count = call.size(call.over[0])
    some = value.detach().movedim(axis, 0).reshape(count, -1).select(1, 0)
    place = call.t.rand_like(some, dtype=call.t.float32).argmax(0)
    hot = call.t.nn.functional.one_hot(place, count).to(value.dtype)
    return call.t.matmul(value.movedim(axis, -1), hot)


def _noise(call: Evaluation) -> Any:
    value = call.args[0].detach()
    return call.t.randn_like(value) if call.training else call.t.zeros_like(value)


def _jitter(call: Evaluation) -> Any:
    value, width = call.args
    if not call.training or width == 0:
        return value
    return value * (1 + width * (2 * call.t.rand_like(value) - 1))


ROUTING = (
    Builtin("topk", "topk(g, k, over d)", "`g` where it is among the k largest along a dimension, "
            "and 0 elsewhere; divide by its `sum` for gates that add up to 1.", (2, 2),
            _gates_rule, _topk, zero="all", over=True, at_most=_most),
    Builtin("chosen", "chosen(g, k, over d)", "1 where `g` is among the k largest along a "
            "dimension, and 0 elsewhere; no gradient flows through it.", (2, 2), _gates_rule,
            _chosen, over=True, at_most=_most),
    Builtin("one_of", "one_of(x, over d)", "In training one entry along a dimension, drawn "
            "uniformly for the whole batch; the mean of all otherwise.", (1, 1), _one_rule,
            _one_of, linear=(0,), zero="all", over=True, random=True),
    Builtin("noise", "noise(x)", "In training standard normal numbers, as many as `x` has; 0 "
            "otherwise.", (1, 1), _same_rule, _noise, random=True),
    Builtin("jitter", "jitter(x, e)", "In training `x` with each element scaled by a number drawn "
            "uniformly from [1 - e, 1 + e); `x` itself otherwise.", (2, 2), _jitter_rule, _jitter,
            linear=(0,), zero="any", transparent=True, random=True),
)  # fmt: skip
