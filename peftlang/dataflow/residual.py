"""Residual branches: what is computed from a stream and added back to it."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch.fx import Node

from peftlang.dataflow.flow import Flow, is_float, shape_of
from peftlang.dataflow.ops import CASTS, name_of


@dataclass(frozen=True)
class Joint:
    """Where a value is added to a residual stream.

    h: what is added, after dropout, norm or scale.
    add: the addition that `h` enters.
    resid: the stream before; total: the stream after. Two where branches are summed first.
    """

    h: Node
    add: Node
    resid: Node | None
    total: Node


def joint(
    flow: Flow, start: Node, inputs: Iterable[Node] = (), *, with_experts: bool = False
) -> Joint | None:
    """The first addition that `start` flows into whole, if it is an addition to a stream.

    Args:
        flow: The graph.
        start: What the branch computes, its last projection's result, say.
        inputs: What the branch reads: the stream is what these are made from.
        with_experts: Whether what a mixture of experts adds first is of the same branch, as where
            one expert is shared by all tokens.
    """
    nodes = list(inputs)
    for node, reached in flow.spine(start):
        other = _other(flow, node, reached)
        if other is None:
            continue
        h = next(o for o in node.all_input_nodes if o is not other)
        resid, total = _stream(flow, node, other, reached, nodes)
        if with_experts and flow.readers[node] == [total] and _has_experts(flow, other, resid):
            return Joint(node, total, resid, total)
        return Joint(h, node, resid, total)
    return None


def _has_experts(flow: Flow, node: Node, stream: Node | None) -> bool:
    """Whether a value is made of a stream by weights of several experts."""
    assert stream is not None
    inside = flow.ancestors([node], flow.order[flow.source(stream, CASTS)])
    weights = (o for n in inside if n in flow.live for o in flow.operands[n] if o not in flow.live)
    sources = (flow.source(weight) for weight in weights)
    return any(len(shape_of(s)) == 3 and flow.facts.parameter_of(s) for s in sources)


def _other(flow: Flow, node: Node, reached: set[Node]) -> Node | None:
    """The operand of an addition that comes from elsewhere and depends on the input."""
    if name_of(node) != "add" or len(node.all_input_nodes) != 2:
        return None
    others = [o for o in node.all_input_nodes if o not in reached and o in flow.live]
    return others[0] if len(others) == 1 and is_float(others[0]) else None


def _stream(
    flow: Flow, add: Node, other: Node, reached: set[Node], inputs: list[Node]
) -> tuple[Node | None, Node]:
    """(stream, sum) among this addition and those that follow at once."""
    seen = set(reached) | {add}
    total, leaf = add, other
    while True:
        if any(flow.is_ancestor(flow.source(leaf, CASTS), x) for x in inputs):
            return leaf, total
        following = flow.readers[total]
        if len(following) != 1:
            break
        further = _other(flow, following[0], seen)
        if further is None:
            break
        total, leaf = following[0], further
        seen.add(total)
    return other, add
