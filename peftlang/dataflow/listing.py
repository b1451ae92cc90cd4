"""Graphs as text: one line for each operation, in the model's own names.

A value that an operation makes begins with ``%``; what comes from outside (a parameter, an
adapter's tensor) stands as it is called there.
"""

from collections.abc import Callable
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


def listing(
    graph: Graph,
    name: Name,
    is_written: Callable[[Node], bool] = lambda _: False,
    note: Callable[[Node], str] = lambda _: "",
) -> str:
    """A graph as text.

    Args:
        graph: The graph.
        name: Gives what comes from outside its name: a parameter's, an adapter's tensor's. Such
            nodes have no line of their own.
        is_written: Whether a pass wrote a node; its line begins with ``+``.
        note: What is said of a node behind it; "" for nothing.
    """
    lines = []
    for node in graph.nodes:
        line = _line(node, name, "+" if is_written(node) else " ")
        said = note(node)
        if line:
            lines.append(f"{line}  # {said}" if said else line)
    return "\n".join(lines)


def _line(node: Node, name: Name, mark: str) -> str:
    if node.op == "output":
        return f"  return {_arguments(node, name)}"
    if name(node) is not None:
        return ""
    return f"{mark} %{node.name}{_shape(node)} = {_operation(node, name)}"


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
    def one(operand: Node) -> _Name:
        return _Name(name(operand) or f"%{operand.name}")

    positional, keywords = map_arg((node.args, node.kwargs), one)
    return ", ".join([*map(_text, positional), *(f"{k}={_text(v)}" for k, v in keywords.items())])


class _Name(str):
    """A name, printed without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    return repr(value)
