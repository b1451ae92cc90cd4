"""listing: captured graphs as text, one line for each operation, in the model's own names.

Requires: nothing. Ensures: the graphs are as they were.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from peftlang.capture import CapturedGraph
from peftlang.emit.rewriting import SLOT, Rewriting

_DTYPES = {
    torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64",
    torch.int64: "i64", torch.int32: "i32", torch.bool: "bool",
}  # fmt: skip


def listing(work: Rewriting) -> str:
    """The graphs of one rewriting, outermost first.

    Parameters and buffers are read by their names in the root model, an adapter's values by
    the names of their slots. A line that a pass wrote begins with ``+``.
    """
    return "\n\n".join("\n".join(_lines(graph)) for graph in work.graphs)


def _lines(graph: CapturedGraph) -> Iterator[str]:
    if graph.caller is not None:
        yield f"the body of {graph.caller.name}:"
    for node in graph.gm.graph.nodes:
        if node.op == "output":
            yield f"  return {_arguments(graph, node)}"
        elif _given_name(graph, node) is None:
            mark = " " if node.op == "placeholder" or node.meta.get("stack_trace") else "+"
            yield f"{mark} {node.name}{_shape(node)} = {_operation(graph, node)}"


def _given_name(graph: CapturedGraph, node: Node) -> str | None:
    facts = graph.facts
    slot = node.meta.get(SLOT)
    return slot or facts.parameter_of(node) or facts.buffer_of(node)


def _shape(node: Node) -> str:
    value = node.meta.get(VALUE)
    if not isinstance(value, torch.Tensor):
        return ""
    return f": {_DTYPES.get(value.dtype, str(value.dtype))}[{', '.join(map(str, value.shape))}]"


def _operation(graph: CapturedGraph, node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return str(node.target)
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return f"{name}({_arguments(graph, node)})"


def _arguments(graph: CapturedGraph, node: Node) -> str:
    named = map_arg((node.args, node.kwargs), lambda n: _Name(_given_name(graph, n) or n.name))
    positional, keywords = named
    return ", ".join([*map(_text, positional), *(f"{k}={_text(v)}" for k, v in keywords.items())])


class _Name(str):
    """A name, printed without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    return repr(value)
