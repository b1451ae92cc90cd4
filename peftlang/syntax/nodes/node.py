"""What every node is, and how to walk any of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import dataclass_transform

from peftlang.diagnostics import Span


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
@dataclass(frozen=True)
class Node:
    """Something that a person wrote, and where. Every kind of node is a frozen dataclass."""

    span: Span = field(compare=False)

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True)(cls)


class Ident(Node):
    """A name where it is declared, or where it stands for something other than a value."""

    text: str


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below any node, in the order of its fields; each once.

    Comments, and what a parser lost, are beside the tree and not below it.
    """
    found: dict[int, Node] = {}
    for name in node.__match_args__:
        value = getattr(node, name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, Node):
                found[id(child)] = child
    return tuple(found.values())


def walk(root: Node) -> Iterator[Node]:
    """The node and every node below it, each before what is below it; without recursion."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))
