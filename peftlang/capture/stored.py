"""A recorded graph as bytes, to be kept on disk.

A node is written as its number, a stand-in as its shape and number type, and what torch was asked
for by its name. What has no name (a function made at run time) cannot be kept, nor can a graph that
remembers operations which are no longer in it.
"""

import io
import pickle
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.utils._pytree import tree_structure, tree_unflatten

from peftlang.capture.facts import CapturedGraph

Row = tuple[str, str, Any]
"""A node's name, kind and target."""


class CannotBeStoredError(Exception):
    """Something in a graph has no name in another process."""


def dumped(captured: CapturedGraph, beside: Any) -> bytes:
    """A graph, and what is known of it, as bytes.

    Args:
        captured: The graph.
        beside: Plain data, which may hold the graph's nodes.

    Raises:
        CannotBeStoredError: something in them has no name in another process.
    """
    if captured.constants:
        raise CannotBeStoredError("the model holds tensors that are no parameters of it")
    nodes = list(captured.graph.nodes)
    rows: list[Row] = [(node.name, node.op, node.target) for node in nodes]
    fields = {
        name: value
        for name, value in captured.__dict__.items()
        if name not in {"graph", "constants", "derived", "result"}
    }
    leaves, form = captured.result
    # A form by an example of it: torch warns of its own classes where a form is read.
    fields["result"] = leaves, tree_unflatten(range(len(leaves)), form)
    whole = [(node.args, node.kwargs, dict(node.meta)) for node in nodes], fields, beside
    written = io.BytesIO()
    try:
        _Writer(written, {}).dump(rows)
        _Writer(written, {node: number for number, node in enumerate(nodes)}).dump(whole)
    except (pickle.PicklingError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CannotBeStoredError(str(error)) from error
    return written.getvalue()


def loaded(data: bytes) -> tuple[CapturedGraph, Any]:
    """What ``dumped`` wrote.

    Raises:
        Exception: any, where the bytes are not whole, or name what is not there.
    """
    read = io.BytesIO(data)
    graph = Graph()
    rows: list[Row] = _Reader(read, []).load()
    nodes = [graph.create_node(op, target, name=name) for name, op, target in rows]
    whole, fields, beside = _Reader(read, nodes).load()
    for node, (args, kwargs, meta) in zip(nodes, whole, strict=True):
        node.args, node.kwargs = args, kwargs
        node.meta = meta
    leaves, example = fields.pop("result")
    fields["result"] = leaves, tree_structure(example)
    return CapturedGraph(graph=graph, **fields), beside


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, nodes: dict[Node, int]) -> None:
        super().__init__(file, protocol=5)
        self._nodes = nodes

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Node):
            return self._nodes[value]
        if isinstance(value, FakeTensor):
            return tuple(value.shape), tuple(value.stride()), value.dtype, value.device.type
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, types.MethodWrapperType):
            # The reading of an attribute: `Tensor.shape.__get__`.
            attribute: Any = value.__self__
            return _attribute_of, (attribute.__objclass__, attribute.__name__)
        return NotImplemented


def _attribute_of(kind: type, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(kind, name).__get__
    return found


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, nodes: list[Node]) -> None:
        super().__init__(file)
        self._nodes = nodes
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._known: dict[Any, Tensor] = {}

    def persistent_load(self, key: Any) -> Any:
        if isinstance(key, int):
            return self._nodes[key]
        if key not in self._known:
            shape, stride, dtype, device = key
            with self._mode:
                made = torch.empty_strided(shape, stride, dtype=dtype, device=device)
            self._known[key] = made
        return self._known[key]
