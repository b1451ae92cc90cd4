"""Attention over a few learned keys."""

from typing import Any

from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply, Ref
from peftlang.ir.types import Level, Type, TypeFact


def _queries(call: Signature, what: str = "queries `[heads, d_head]`") -> Type:
    have = call.inexact()
    if len(have.dims) != 2 or have.level is not Level.TOKEN:
        raise TypeFact("T209", f"{what} of each token are wanted, and this is {have}", 0)
    return have


def _keys(call: Signature, index: int, heads: Dim) -> Type:
    have = call.inexact(index)
    shaped = len(have.dims) == 3 and have.dims[1] in (Dim.of("kv_heads"), heads)
    if not shaped or have.level is not Level.CONST:
        raise TypeFact(
            "T209",
            f"`[n, kv_heads, d_head]`, the same for every input, is wanted, and this is {have}",
            index,
        )
    return have


def _scores_rule(call: Signature) -> Type:
    query = _queries(call)
    keys = _keys(call, 1, query.dims[0])
    if query.dims[-1] != keys.dims[-1]:
        raise TypeFact(
            "T209", f"the queries {query} and the keys {keys} differ in the head's width", 1
        )
    return query.with_dims(query.dims[0], keys.dims[0])


def _mix_rule(call: Signature) -> Type:
    weights = _queries(call, "weights `[heads, n]`")
    values = _keys(call, 1, weights.dims[0])
    if weights.dims[1] != values.dims[0]:
        raise TypeFact("T209", f"the weights {weights} are not for the {values.dims[0]} values", 1)
    return weights.with_dims(weights.dims[0], values.dims[-1])


def _attend_rule(call: Signature) -> Type:
    scores = _scores_rule(call)
    values = _keys(call, 2, scores.dims[0])
    if scores.dims[1] != values.dims[0]:
        raise TypeFact("T209", f"there are {scores.dims[1]} keys and {values.dims[0]} values", 2)
    return scores.with_dims(scores.dims[0], values.dims[-1])


def _mass_rule(call: Signature) -> Type:
    scores, own = _scores_rule(call), call.args[2]
    if not isinstance(own, Ref) or own.name != "k":
        raise TypeFact("T209", "the site's own keys `k` are wanted", 2)
    return scores.with_dims(scores.dims[0])


def _scores(call: Evaluation, keys: Any) -> Any:
    """Scaled products ``[..., heads, n]`` of the queries with constant keys."""
    return call.site.scores(call.args[0], keys)


def _attend(call: Evaluation) -> Any:
    activation = call.keywords.get("act")
    scores = _scores(call, call.args[1])
    weights = call.t.softmax(scores, dim=-1) if activation is None else activation(scores)
    return call.site.mix(weights, call.args[2])


def _mass(call: Evaluation) -> Any:
    prefix = call.t.logsumexp(_scores(call, call.args[1]), dim=-1)
    return call.t.sigmoid(prefix - call.site.log_normaliser())


def _attend_cost(call: Apply) -> Dim:
    keys, values = call.args[1].type.dims[0], call.args[2].type.dims[-1]
    heads, width = call.args[0].type.dims
    return 2 * product((heads, keys, width)) + 2 * product((heads, keys, values))


def _project_rule(call: Signature) -> Type:
    have = call.inexact()
    if have.dims[-1:] != (Dim.of("d_x"),):
        raise TypeFact(
            "T209",
            "the layer's own projection reads what its attention does, `[…, d_x]`, and "
            f"this is {have}",
            0,
        )
    return have.with_dims(*have.dims[:-1], Dim.of("kv_heads"), Dim.of("d_head"))


def _project_cost(call: Apply) -> Dim:
    return 2 * call.type.size * Dim.of("d_x")


def _projection(part: str, what: str) -> Builtin:
    def project(call: Evaluation) -> Any:
        return call.site.project(part, call.args[0])

    doc = (
        f"The layer's own projection to {what}, frozen and with its bias, of `P[…, d_x]`: "
        "`[…, kv_heads, d_head]`. No position is encoded."
    )
    return Builtin(
        f"project_{part}",
        f"project_{part}(P)",
        doc,
        (1, 1),
        _project_rule,
        project,
        linear=(0,),
        cost=_project_cost,
    )


ATTENTION = (
    Builtin("attend", "attend(q, K, V)", "Scaled dot-product attention of the site's queries over "
            "the given keys `[n, kv_heads, d_head]` and values alone; scaled as the site's own "
            "attention is.", (3, 3), _attend_rule, _attend, linear=(2,), zero="any",
            cost=_attend_cost),
    Builtin("scores", "scores(q, K)", "Scaled products of the site's queries with the given keys "
            "`[n, kv_heads, d_head]`, before any softmax: `[heads, n]`.", (2, 2),
            _scores_rule, lambda c: _scores(c, c.args[1]), linear=(1,), zero="any",
            cost=lambda c: 2 * product((*c.type.dims, c.args[0].type.dims[-1]))),
    Builtin("mix", "mix(g, V)", "The values `[n, kv_heads, d_head]` weighted by `g[heads, n]`.",
            (2, 2), _mix_rule,
            lambda c: c.site.mix(*c.args), linear=(0, 1), zero="any",
            cost=lambda c: 2 * product((*c.type.dims, c.args[0].type.dims[-1]))),
    Builtin("prefix_mass", "prefix_mass(q, P, k)", "The share of the attention that falls on the "
            "keys `P` when they stand before the site's own keys `k`, masks included "
            "(He et al. 2022, eq. 7-9).", (3, 3), _mass_rule, _mass, reads="seen",
            cost=lambda c: 2 * product((c.args[1].type.dims[0], *c.args[0].type.dims))),
    _projection("k", "keys"),
    _projection("v", "values"),
)  # fmt: skip
