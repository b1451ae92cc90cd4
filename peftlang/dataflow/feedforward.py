"""Feed-forward branches: projections, a non-linearity token by token, a projection back."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import Node

from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.ops import ACTIVATIONS, CASTS, MIXING, VIEWS, name_of
from peftlang.dataflow.residual import Joint, joint
from peftlang.dataflow.slices import rows_reaching
from peftlang.dataflow.weights import WeightUse


@dataclass(frozen=True)
class Inner:
    """A projection before the non-linearity: ``gate`` goes through it, ``up`` is multiplied.

    With no gate the one projection before the non-linearity is ``up``. rows: the features that
    make the role, None for all.
    """

    part: str
    use: WeightUse
    rows: list[int] | None = None


@dataclass(frozen=True)
class FeedForward:
    """A feed-forward branch; `joint` is where it meets the residual stream."""

    inner: list[Inner]
    down: WeightUse
    x: Node
    joint: Joint


def feed_forward(
    flow: Flow, down: WeightUse, by_result: dict[Node, WeightUse]
) -> FeedForward | None:
    """The feed-forward branch that ends in the projection `down`, if there is one."""
    before = _before(flow, down, by_result)
    if not before or len({use.x for use in before}) != 1:
        return None
    x = before[0].x
    join = joint(flow, down.h, [x], with_experts=True)
    if (
        join is None
        or join.resid is None
        or not flow.is_ancestor(flow.source(join.resid, CASTS), x)
        or _mixes_tokens(flow, down.h, join.h)
    ):
        return None
    return FeedForward(parts_before(flow, before, down), down, x, join)


def _mixes_tokens(flow: Flow, start: Node, end: Node) -> bool:
    """Whether tokens meet on the way: then it is attention's low-rank query, say, that starts."""
    between = flow.ancestors([end], flow.order[start])
    mixing = (n for n in between if n in flow.live and name_of(n) in MIXING)
    return any(flow.is_ancestor(start, n) for n in mixing if n is not start)


def inputs_of(flow: Flow, down: WeightUse, by_result: dict[Node, WeightUse]) -> list[WeightUse]:
    """The projections that open the feed-forward branch ending in `down`; none if it is none."""
    return _before(flow, down, by_result) or []


def _before(
    flow: Flow, down: WeightUse, by_result: dict[Node, WeightUse]
) -> list[WeightUse] | None:
    """The projections that `down` reads through token-wise ops and some non-linearity."""
    met, passed = flow.backward(down.x, set(by_result))
    live = [n for n in passed if n in flow.live]
    if any(name_of(n) in MIXING or n.op == "placeholder" for n in live):
        return None
    if not any(name_of(n) in ACTIVATIONS or _gates(flow, n) for n in live):
        return None
    return [by_result[n] for n in met]


def _gates(flow: Flow, node: Node) -> bool:
    operands = [o for o in node.all_input_nodes if o in flow.live]
    return name_of(node) == "mul" and len(operands) == 2


def parts_before(flow: Flow, before: list[WeightUse], down: WeightUse) -> list[Inner]:
    """Name the projections by which side of the gating product they feed."""
    _, passed = flow.backward(down.x, {use.h for use in before})
    for node in sorted(passed, key=flow.order.__getitem__, reverse=True):
        if name_of(node) == "glu":
            use = before[0]
            half = use.width // 2
            return [
                Inner("up", use, list(range(half))),
                Inner("gate", use, list(range(half, 2 * half))),
            ]
        if _gates(flow, node) and (parts := _sides(flow, before, node)):
            return parts
    return [Inner("up", use) for use in before]


def _sides(flow: Flow, before: list[WeightUse], product: Node) -> list[Inner] | None:
    """The parts that feed the two operands of `product`, None if they are not apart."""
    left, right = product.all_input_nodes
    bends = [_bends(flow, side, before) for side in (left, right)]
    names = ("up", "gate") if bends[1] and not bends[0] else ("gate", "up")
    parts: list[Inner] = []
    for use in before:
        if not (flow.is_ancestor(use.h, left) and flow.is_ancestor(use.h, right)):
            side = 0 if flow.is_ancestor(use.h, left) else 1
            parts.append(Inner(names[side], use))
            continue
        reached = rows_reaching(flow, use.h, (left, right))
        if reached is None or set(reached[0]) & set(reached[1]):
            return None
        parts += [Inner(names[0], use, reached[0]), Inner(names[1], use, reached[1])]
    return sorted(parts, key=lambda part: part.part == "gate")


def _bends(flow: Flow, side: Node, before: list[WeightUse]) -> bool:
    _, passed = flow.backward(side, {use.h for use in before})
    return any(name_of(n) in ACTIVATIONS for n in passed if n in flow.live)


@dataclass(frozen=True)
class Branch:
    """A residual branch of any other kind: experts, a recurrent mixer.

    weights: the matrices (and larger) that it uses, in order. token_wise: whether it is made of
    experts, which work token by token.
    """

    weights: list[str]
    token_wise: bool
    x: Node
    joint: Joint


def other_branches(flow: Flow, taken: Iterable[Node]) -> list[Branch]:
    """Branches that meet a stream at an addition which is not among `taken`."""
    skip = set(taken)
    found: list[Branch] = []
    for node in flow.order:
        if name_of(node) == "add" and node in flow.live and node not in skip:
            branch = _branch(flow, node)
            if branch:
                found.append(branch)
    return found


def _branch(flow: Flow, add: Node) -> Branch | None:
    operands = [o for o in add.all_input_nodes if o in flow.live]
    if len(operands) != 2:
        return None
    resid, h = sorted(operands, key=lambda o: flow.order[flow.source(o, CASTS)])
    stream = flow.source(resid, CASTS)
    if stream is flow.source(h, CASTS) or not flow.is_ancestor(stream, h):
        return None
    return branch_between(flow, Joint(h, add, resid, add))


def branch_of(flow: Flow, start: Node, weight: str) -> Branch | None:
    """The branch of any other kind that ends after `start`, by the last weight that it uses."""
    for node, _ in flow.spine(start):
        found = _branch(flow, node) if name_of(node) == "add" else None
        if found and found.weights[-1] == weight:
            return found
    return None


def branch_between(flow: Flow, join: Joint) -> Branch | None:
    """The branch from ``join.resid`` to ``join.h``, None if it has no matrix in it."""
    assert join.resid is not None
    stream = flow.source(join.resid, CASTS)
    inside = set(flow.ancestors([join.h], flow.order[stream])) - {stream}
    users = [(n, name) for n in inside for name in _matrices(flow, n)]
    users.sort(key=lambda pair: flow.order[pair[0]])
    if not users:
        return None
    inside.add(stream)
    reads = [o for n, _ in users for o in flow.operands[n] if o in flow.live and o in inside]
    x = flow.meet(reads)
    if x is None:
        return None
    unflattened = flow.source(x, VIEWS)
    experts = any(_is_expert(flow, n) for n, _ in users)
    convolves = any(name_of(n).startswith("conv") for n, _ in users)
    x = unflattened if len(shape_of(unflattened)) > len(shape_of(x)) else x
    return Branch([name for _, name in users], experts and not convolves, x, join)


def _matrices(flow: Flow, node: Node) -> list[str]:
    """Names of the parameters of two and more dimensions that a live node applies."""
    if node not in flow.live:
        return []
    weights = [o for o in node.all_input_nodes if o not in flow.live and len(shape_of(o)) > 1]
    return [name for w in weights if (name := flow.parameter(w))]


def _is_expert(flow: Flow, node: Node) -> bool:
    weights = [o for o in node.all_input_nodes if o not in flow.live]
    sources = [flow.source(w) for w in weights]
    return any(len(shape_of(s)) == 3 and flow.facts.parameter_of(s) for s in sources)
