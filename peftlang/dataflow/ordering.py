"""Putting a graph in order again after a value was read that is made further down."""

import heapq

from torch.fx import Graph, Node

from peftlang.dataflow.ops import mutates
from peftlang.diagnostics import PeftError


def in_order(graph: Graph) -> None:
    """Move each node behind all that it reads, and otherwise leave the order as it is.

    Raises:
        PeftError: S417, a value is needed for itself; or an operation that changes its operand
            in place stands between, so that the order may not change.
    """
    nodes = list(graph.nodes)
    if _is_ordered(nodes):
        return
    place = {node: index for index, node in enumerate(nodes)}
    missing = {node: len(node.all_input_nodes) for node in nodes}
    ready = [place[node] for node in nodes if not missing[node]]
    heapq.heapify(ready)
    ordered: list[Node] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        ordered.append(node)
        for user in node.users:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, place[user])
    if len(ordered) < len(nodes):
        raise _not_there("what it makes is computed from what reads it")
    if any(mutates(node) for node in nodes):
        raise _not_there("the model changes values in place, so nothing can be moved")
    last = nodes[0].prev
    for node in ordered:
        last.append(node)
        last = node


def _is_ordered(nodes: list[Node]) -> bool:
    seen: set[Node] = set()
    for node in nodes:
        if any(below not in seen for below in node.all_input_nodes):
            return False
        seen.add(node)
    return True


def _not_there(why: str) -> PeftError:
    return PeftError(
        f"a tap reads a value before it is there: {why}",
        code="S417",
        help="a tap can read what runs before the site: an earlier layer (`in layers[layer - 1]`), "
        "an earlier part of the layer, or a tower that does not read this one",
    )
