"""What one call of a module computes in a graph: where its input comes in, where its result leaves.

A recorded graph holds calls whole, with all that was asked for within them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.fx import Node

from peftlang.dataflow.flow import Flow, is_float, shape_of


@dataclass(frozen=True)
class Region:
    """One call of a module. entries: the nodes inside that read `x`."""

    x: Node
    h: Node
    entries: tuple[Node, ...]


def regions(flow: Flow, path: str) -> list[Region]:
    """The calls of the module at `path` that this graph inlines, in order."""
    calls: dict[object, list[Node]] = {}
    for node in flow.order:
        if (key := flow.facts.call_key(node, path)) is not None:
            calls.setdefault(key, []).append(node)
    found = (_region(flow, nodes) for nodes in calls.values())
    return [region for region in found if region]


def whole(flow: Flow) -> Region | None:
    """The graph itself as the one call of a module."""
    return _region(flow, [n for n in flow.order if n.op not in {"placeholder", "output"}])


def _region(flow: Flow, nodes: Sequence[Node]) -> Region | None:
    inside = set(nodes)
    live = [node for node in nodes if node in flow.live]
    entries = [n for n in live if any(_is_stream(flow, o, inside) for o in flow.operands[n])]
    leaving = [n for n in live if is_float(n) and any(r not in inside for r in flow.readers[n])]
    if not entries or not leaving:
        return None
    # A call reads its own stream before what it looks up in another.
    x = next(o for o in flow.operands[entries[0]] if _is_stream(flow, o, inside))
    h = max(leaving, key=lambda n: (_alike(n, x), flow.order[n]))
    return Region(x, h, tuple(r for r in flow.readers[x] if r in inside))


def _is_stream(flow: Flow, node: Node, inside: set[Node]) -> bool:
    return node not in inside and node in flow.live and is_float(node)


def _alike(node: Node, x: Node) -> bool:
    """Whether a result has the input's batch and tokens: it is no cache, no attention weights."""
    ours, theirs = shape_of(node), shape_of(x)
    return len(ours) == len(theirs) and ours[:-1] == theirs[:-1]
