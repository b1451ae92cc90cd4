"""One walk over the syntax tree, whatever its nodes are; never recursive."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

from peftlang.diagnostics import Span
from peftlang.syntax import nodes as n

N = TypeVar("N", bound=n.Node)
T = TypeVar("T")


_FIELDS: dict[str, tuple[str, ...]] = {}
"""Names of the fields of each kind of node, as they are asked for."""


def children(node: n.Node) -> tuple[n.Node, ...]:
    """The nodes directly below one, in the order of its fields; one that stands twice, once."""
    found: dict[int, n.Node] = {}
    kind = type(node).__name__
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(field.name for field in fields(node))
    for name in _FIELDS[kind]:
        value = getattr(node, name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, n.Node):
                found[id(child)] = child
    return tuple(found.values())


def operands(expr: n.Expr) -> tuple[n.Expr, ...]:
    """The values that an expression computes with; dimensions after ``over`` are none."""
    below = (child.value if isinstance(child, n.Argument) else child for child in children(expr))
    return tuple(child for child in below if isinstance(child, n.Expr))


def _postorder(roots: tuple[N, ...], below: Callable[[N], tuple[N, ...]]) -> Iterator[N]:
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(below(node)))


def walk(*roots: n.Node) -> Iterator[n.Node]:
    """Every node at and below ``roots``, those below before those above."""
    return _postorder(roots, children)


def fold(root: n.Expr, compute: Callable[[n.Expr, list[T]], T]) -> T:
    """``compute(node, what it made of the node's operands)``, from the leaves up."""
    done: dict[int, T] = {}
    for node in _postorder((root,), operands):
        done[id(node)] = compute(node, [done[id(child)] for child in operands(node)])
    return done[id(root)]


def moved(root: N, place: Callable[[Span], Span]) -> N:
    """The same tree with other spans, by what each was."""
    done: dict[int, n.Node] = {}
    for node in walk(root):
        changes: dict[str, Any] = {}
        for field in fields(node):
            value = getattr(node, field.name)
            if isinstance(value, Span):
                changes[field.name] = place(value)
            elif isinstance(value, tuple):
                changes[field.name] = tuple(done.get(id(item), item) for item in value)
            elif isinstance(value, n.Node):
                changes[field.name] = done[id(value)]
        done[id(node)] = replace(node, **changes)
    return cast("N", done[id(root)])


def names_read(*roots: n.Node) -> Iterator[str]:
    """Every name that is read at or below ``roots``: values, dimensions, functions."""
    for node in walk(*roots):
        if isinstance(node, n.Name):
            yield node.text
        elif isinstance(node, n.Call):
            yield node.function.text


def offsets(node: n.Node) -> tuple[int, int]:
    """Where a node starts and ends in its text, as the typed IR keeps it."""
    return node.span.start, node.span.end
