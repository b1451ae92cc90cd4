"""Graphs as text: one line for each operation, in the model's own names."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from peftlang.capture.facts import VALUE

_DTYPES = {
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float64: "f64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "bool",
}

Name = Callable[[Node], str | None]
"""What a node is called, where that is not its own name."""


def listing(graph: Graph, name: Name, is_written: Callable[[Node], bool]) -> str:
    """A graph as text.

    Args:
        graph: The graph.
        name: Gives what comes from outside its name: a parameter's, an adapter's tensor's. Such
            nodes have no line of their own.
        is_written: Whether a pass wrote a node; its line begins with ``+``.
    """
    return "\n".join(_lines(graph, name, is_written))


def _lines(graph: Graph, name: Name, is_written: Callable[[Node], bool]) -> Iterator[str]:
    for node in graph.nodes:
        if node.op == "output":
            yield f"  return {_arguments(node, name)}"
        elif name(node) is None:
            mark = "+" if is_written(node) else " "
            yield f"{mark} {node.name}{_shape(node)} = {_operation(node, name)}"


def _shape(node: Node) -> str:
    value = node.meta.get(VALUE)
    if not isinstance(value, torch.Tensor):
        return ""
    return f": {_DTYPES.get(value.dtype, str(value.dtype))}[{', '.join(map(str, value.shape))}]"


def _operation(node: Node, name: Name) -> str:
    if node.op == "placeholder":
        return "input"
    called = node.target if isinstance(node.target, str) else node.target.__name__
    return f"{called}({_arguments(node, name)})"


def _arguments(node: Node, name: Name) -> str:
    positional, keywords = map_arg((node.args, node.kwargs), lambda n: _Name(name(n) or n.name))
    return ", ".join([*map(_text, positional), *(f"{k}={_text(v)}" for k, v in keywords.items())])


class _Name(str):
    """A name, printed without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    return repr(value)
