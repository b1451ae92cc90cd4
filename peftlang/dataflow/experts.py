"""The projections of experts whose weights one parameter holds: ``[experts, d_h, d_x]``."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch.fx import Node

from peftlang.dataflow.feedforward import parts_before
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.ops import CASTS, PICKS, VIEWS, name_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.slices import as_rows
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Rows

_TURNS = frozenset({"transpose", "permute", "swapaxes", "mT"})


@dataclass(frozen=True)
class ExpertPart:
    """One role of every expert's projection.

    Attributes:
        part: ``up``, ``gate`` or ``down``.
        use: Where the graph applies the weights; ``transposed`` if stored ``[experts, d_x, d_h]``.
        rows: The features of the projection that make the role; None for all.
        count: Number of experts.
        d_x: Features that an expert reads there.
        d_h: Features that the role has.
    """

    part: str
    use: WeightUse
    rows: Rows | None
    count: int
    d_x: int
    d_h: int


def expert_parts(flow: Flow, end: Node, first: int) -> list[ExpertPart]:
    """The roles of the experts in a branch: one projection up, or two, and one down.

    Args:
        flow: A graph with concrete sizes.
        end: The branch's result.
        first: Position of the stream that the branch leaves.

    Returns:
        Empty where the branch has other products, or biases, than those of such experts.
    """
    inside = sorted(set(flow.ancestors([end], first)), key=flow.order.__getitem__)
    uses = [use for node in inside for use in _uses(flow, node)]
    downs = [use for use in uses if any(_made_of(flow, use, other) for other in uses)]
    ups = [use for use in uses if use not in downs]
    if len(downs) != 1 or not ups or len({use.weight for use in uses}) != len(uses):
        return []
    if any(_has_bias(flow, use.h) for use in uses):
        return []
    found = [
        _part(inner.part, inner.use, inner.rows) for inner in parts_before(flow, ups, downs[0])
    ]
    return [*found, _part("down", downs[0], None)]


def routers(reading: Reading, parts: Sequence[ExpertPart], end: Node) -> list[WeightUse]:
    """The projections that score the experts of a branch: of what the experts read."""
    if not parts:
        return []
    flow = reading.flow
    source = flow.source(parts[0].use.x, CASTS | VIEWS | PICKS)
    return [
        use
        for use in reading.by_result.values()
        if use.width == parts[0].count
        and flow.source(use.x, CASTS | VIEWS) is flow.source(source, CASTS | VIEWS)
        and flow.is_ancestor(use.call, end)
    ]


def _uses(flow: Flow, node: Node) -> Iterator[WeightUse]:
    """The product at a node whose weight is a parameter of three dimensions."""
    weights = [o for o in flow.operands[node] if o not in flow.live and node in flow.live]
    for weight in weights:
        source = flow.source(weight, CASTS | VIEWS | _TURNS)
        name, shape = flow.facts.parameter_of(source), shape_of(source)
        data = next((o for o in flow.operands[node] if o in flow.live), None)
        if name is None or len(shape) != 3 or data is None:
            continue
        turned = _is_turned(flow, weight, source) != (name_of(node) == "linear")
        d_x, d_h = (shape[2], shape[1]) if turned else (shape[1], shape[2])
        if shape_of(data)[-1:] == (d_x,) and shape_of(node)[-1:] == (d_h,):
            yield WeightUse("expert", node, data, node, name, source, transposed=not turned)


def _is_turned(flow: Flow, weight: Node, source: Node) -> bool:
    """Whether the parameter's last two dimensions are exchanged on the way to the product."""
    turns = 0
    while weight is not source:
        turns += name_of(weight) in _TURNS
        weight = flow.operands[weight][0]
    return turns % 2 == 1


def _made_of(flow: Flow, use: WeightUse, other: WeightUse) -> bool:
    return other is not use and flow.is_ancestor(other.call, use.x)


def _has_bias(flow: Flow, result: Node) -> bool:
    """Whether a parameter is added to a product."""
    for reader in flow.readers[result]:
        others = [o for o in flow.operands[reader] if o is not result]
        if name_of(reader) == "add" and any(_from_weights(flow, o) for o in others):
            return True
    return False


def _from_weights(flow: Flow, node: Node) -> bool:
    return any(flow.facts.parameter_of(n) for n in flow.ancestors([node]) if n not in flow.live)


def _part(part: str, use: WeightUse, indices: Iterable[int] | None) -> ExpertPart:
    count, *sizes = shape_of(use.w)
    d_x, d_h = sizes if use.transposed else reversed(sizes)
    rows = as_rows(list(indices), int(d_h)) if indices is not None else None
    return ExpertPart(part, use, rows, int(count), int(d_x), rows.count if rows else int(d_h))
