"""Where an image's patches stand among the tokens of a graph."""

from collections.abc import Iterator
from typing import Any

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.dataflow.borders import Border, Borders
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.ops import CASTS, DROPOUTS, VIEWS, argument, name_of

Grid = tuple[Border, tuple[tuple[int, int], ...]]
"""What cuts an image into patches, and how many tokens stand before its patches, and after them, at
each stage of their sequence."""

_KEEPS = CASTS | VIEWS | DROPOUTS | {"add", "contiguous"}


def grids(graph: CapturedGraph) -> tuple[Grid, ...]:
    """Every grid of patches in a graph, as it stands at each stage of its sequence.

    A convolution whose windows do not overlap cuts the image; its result is flattened row by row,
    and other tokens are put before or after it.
    """
    return tuple((border, tuple(dict.fromkeys(_neighbours(node)))) for node, border in _all(graph))


def _all(graph: CapturedGraph) -> Iterator[tuple[Node, Border]]:
    borders = Borders.of(graph)
    for node in graph.graph.nodes:
        if _cuts(node):
            border = borders.shown(node, len(borders.order))
            if border is not None:
                yield node, border


def _cuts(node: Node) -> bool:
    if name_of(node) != "conv2d" or len(node.all_input_nodes) < 2 or len(shape_of(node)) != 4:
        return False
    kernel = list(shape_of(node.all_input_nodes[1])[2:])
    strides: Any = argument(node, 3, "stride", default=1)
    strides = [strides] * len(kernel) if isinstance(strides, int) else list(strides)
    return bool(kernel == strides)


def _neighbours(start: Node) -> Iterator[tuple[int, int]]:
    """How many tokens stand before and after the patches, at each stage on from ``start``."""
    pending: list[tuple[Node, int, int]] = [(start, 0, 0)]
    seen = {start}
    while pending:
        node, before, after = pending.pop()
        yield before, after
        for user in node.users:
            beside = _beside(user, node)
            if user not in seen and beside is not None:
                seen.add(user)
                pending.append((user, before + beside[0], after + beside[1]))


def _beside(user: Node, node: Node) -> tuple[int, int] | None:
    """Tokens that ``user`` puts before and after those of ``node``; None if it mixes them."""
    if name_of(user) not in {"cat", "concat", "concatenate"}:
        return (0, 0) if name_of(user) in _KEEPS else None
    parts = argument(user, 0, "tensors")
    counts = _counts(parts)
    if counts is None:
        return None
    place = [part is node for part in parts].index(True)
    return sum(counts[:place]), sum(counts[place + 1 :])


def _counts(parts: Any) -> list[int] | None:
    """Tokens of each operand of a concatenation ``[batch, tokens, features]``."""
    if not isinstance(parts, list | tuple) or not all(isinstance(p, Node) for p in parts):
        return None
    shapes = [shape_of(part) for part in parts]
    if any(len(shape) != 3 for shape in shapes):
        return None
    return [int(shape[1]) for shape in shapes]
