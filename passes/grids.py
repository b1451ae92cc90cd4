"""Where an image's patches stand among the tokens of a graph."""

from collections.abc import Iterator
from typing import Any

from torch.fx import Node

from peftlang.capture import CapturedGraph, Sizes
from peftlang.passes.dataflow.flow import shape_of
from peftlang.passes.dataflow.ops import CASTS, DROPOUTS, VIEWS, name_of
from peftlang.passes.rooms import is_room, room_of

Grid = tuple[int, int, int, int]
"""Tokens before the patches, rows of patches, columns, tokens after them."""

_KEEPS = CASTS | VIEWS | DROPOUTS | {"add", "contiguous"}


def grids(graph: CapturedGraph) -> list[Grid]:
    """Every grid of patches in a graph, as it stands at each stage of its sequence.

    A convolution whose windows do not overlap cuts the image; its result is flattened row by row,
    and other tokens are put before or after it.
    """
    found: list[Grid] = []
    sizes = graph.sizes
    for node in graph.gm.graph.nodes:
        shape = shape_of(node) if _cuts(node, sizes) else ()
        if len(shape) == 4:
            rows, columns = sizes.fixed(shape[2]), sizes.fixed(shape[3])
            found += [(a, rows, columns, b) for a, b in _neighbours(node, sizes)]
    return list(dict.fromkeys(found))


def _cuts(node: Node, sizes: Sizes) -> bool:
    if name_of(node) != "conv2d" or len(node.all_input_nodes) < 2:
        return False
    kernel = [sizes.now(size) for size in shape_of(node.all_input_nodes[1])[2:]]
    strides: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("stride", 1)
    strides = [strides] * len(kernel) if isinstance(strides, int) else list(strides)
    return bool(kernel == strides)


def _neighbours(start: Node, sizes: Sizes) -> Iterator[tuple[int, int]]:
    """How many tokens stand before and after the patches, at each stage on from ``start``."""
    pending: list[tuple[Node, int, int]] = [(start, 0, 0)]
    seen = {start}
    while pending:
        node, before, after = pending.pop()
        yield before, after
        for user in node.users:
            beside = _beside(user, node, sizes)
            if user not in seen and beside is not None:
                seen.add(user)
                pending.append((user, before + beside[0], after + beside[1]))


def _beside(user: Node, node: Node, sizes: Sizes) -> tuple[int, int] | None:
    """Tokens that ``user`` puts before and after those of ``node``; None if it mixes them."""
    if is_room(user):
        return room_of(user), 0
    if name_of(user) not in {"cat", "concat", "concatenate"}:
        return (0, 0) if name_of(user) in _KEEPS else None
    parts = user.args[0] if user.args else user.kwargs.get("tensors")
    counts = _counts(parts, sizes)
    if counts is None:
        return None
    place = [part is node for part in parts].index(True)  # type: ignore[union-attr]
    return sum(counts[:place]), sum(counts[place + 1 :])


def _counts(parts: Any, sizes: Sizes) -> list[int] | None:
    """Tokens of each operand of a concatenation ``[batch, tokens, features]``."""
    if not isinstance(parts, list | tuple) or not all(isinstance(p, Node) for p in parts):
        return None
    shapes = [shape_of(part) for part in parts]
    if any(len(shape) != 3 for shape in shapes):
        return None
    return [sizes.fixed(shape[1]) for shape in shapes]
