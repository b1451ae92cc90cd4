"""A tree as lines, for golden files: one node a line, what is said in place of where."""

from collections.abc import Iterator
from typing import Any

from peftlang.syntax import nodes as n

HIDDEN = {"span", "op_span", "parens", "comments", "source"}


def dump(node: n.Node) -> str:
    """The tree below a node; spans, parentheses and comments are left out."""
    return "\n".join(_lines("", node, 0)) + "\n"


def _fields(node: n.Node) -> Iterator[tuple[str, Any]]:
    for name in node.__match_args__:
        if name not in HIDDEN:
            yield name, getattr(node, name)


def _simple(value: Any) -> bool:
    if isinstance(value, n.Ident):
        return True
    if isinstance(value, tuple):
        return all(isinstance(one, str) for one in value)
    return not isinstance(value, n.Node)


def _shown(value: Any) -> str:
    if isinstance(value, n.Ident):
        return value.text
    return ".".join(value) if isinstance(value, tuple) else repr(value)


def _lines(label: str, node: n.Node, depth: int) -> Iterator[str]:
    # Where a node has both, `source` is the text of the whole file or an import's origin.
    fields = dict(_fields(node))
    if isinstance(node, n.Import):
        fields = {"source": node.source, **fields}
    simple = [f"{k}={_shown(v)}" for k, v in fields.items() if _simple(v) and v not in ((), None)]
    yield "  " * depth + " ".join([label + type(node).__name__, *simple])
    for name, value in fields.items():
        if isinstance(value, tuple) and not _simple(value):
            for one in value:
                yield from _lines(f"{name}: ", one, depth + 1)
        elif isinstance(value, n.Node) and not _simple(value):
            yield from _lines(f"{name}: ", value, depth + 1)
