"""Where an image's patches stand among the tokens of a graph."""

from collections.abc import Iterator
from typing import Any

from torch.fx import Graph, Node

from peftlang.capture import hint_of
from peftlang.passes.dataflow.flow import shape_of
from peftlang.passes.dataflow.ops import CASTS, DROPOUTS, VIEWS, name_of

Grid = tuple[int, int, int, int]
"""Tokens before the patches, rows of patches, columns, tokens after them."""

_KEEPS = CASTS | VIEWS | DROPOUTS | {"add", "contiguous"}


def grids(graph: Graph) -> list[Grid]:
    """Every grid of patches in a graph, as it stands at each stage of its sequence.

    A convolution whose windows do not overlap cuts the image; its result is flattened row by row,
    and other tokens are put before or after it.
    """
    found: list[Grid] = []
    for node in graph.nodes:
        shape = shape_of(node) if _cuts(node) else ()
        if len(shape) == 4:
            rows, columns = hint_of(shape[2]), hint_of(shape[3])
            found += [(a, rows, columns, b) for a, b in _neighbours(node)]
    return list(dict.fromkeys(found))


def _cuts(node: Node) -> bool:
    if name_of(node) != "conv2d" or len(node.all_input_nodes) < 2:
        return False
    kernel = [hint_of(size) for size in shape_of(node.all_input_nodes[1])[2:]]
    strides: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("stride", 1)
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
    parts = user.args[0] if user.args else user.kwargs.get("tensors")
    sizes = _sizes(parts)
    if sizes is None:
        return None
    place = [part is node for part in parts].index(True)  # type: ignore[union-attr]
    return sum(sizes[:place]), sum(sizes[place + 1 :])


def _sizes(parts: Any) -> list[int] | None:
    """Tokens of each operand of a concatenation ``[batch, tokens, features]``."""
    if not isinstance(parts, list | tuple) or not all(isinstance(p, Node) for p in parts):
        return None
    shapes = [shape_of(part) for part in parts]
    return [hint_of(shape[1]) for shape in shapes] if all(len(s) == 3 for s in shapes) else None
