"""Operations that a recorded graph holds as one node, and that were written out as many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from peftlang.capture.facts import FUNCTION

WRITTEN_OUT = "peftlang_written_out"
"""Key of ``node.meta``: the operation that the node was written out of."""


@dataclass(frozen=True, eq=False)
class WrittenOut:
    """One operation that is no longer in the graph.

    Attributes:
        function: What torch was asked for.
        args: Its operands, nodes among them.
        kwargs: Those given by name.
        number: Tells it from others.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    number: int

    @classmethod
    def of(cls, node: Node, number: int) -> "WrittenOut":
        """The operation of a node."""
        function = node.meta.get(FUNCTION, node.target)
        return cls(function, node.args, dict(node.kwargs), number)
