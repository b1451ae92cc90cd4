"""Which parameter and which module a graph's node belongs to: by identity, never by name.

After a graph break Dynamo resumes in an inner frame, where its own names are relative to an
inner module. The objects do not change: the backend's example inputs are the parameters
themselves, and the keys of ``nn_module_stack`` are the modules' ``id``. Both are looked up in
the root model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from peftlang.capture.examples import Sizes


@dataclass(frozen=True)
class ModelNames:
    """Qualified names of a model's parameters, buffers and modules, by the objects' ``id``.

    A tied parameter has the first of its names. `owned` gives for each module the (first) names
    of the parameters that are its own attributes, and `lists` the length of each list of
    modules (``ModuleList`` or ``Sequential``). Valid while the model keeps its objects: take
    it anew after parameters were replaced (``to(device)`` under some settings, sharding).
    """

    parameters: dict[int, str]
    buffers: dict[int, str]
    modules: dict[int, str]
    owned: dict[str, frozenset[str]] = field(default_factory=dict)
    lists: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> "ModelNames":
        parameters = {id(p): name for name, p in model.named_parameters()}
        modules = dict(model.named_modules())
        return cls(
            parameters,
            {id(b): name for name, b in model.named_buffers()},
            {id(m): name for name, m in modules.items()},
            {
                name: frozenset(parameters[id(p)] for p in m.parameters(recurse=False))
                for name, m in modules.items()
            },
            {
                name: len(m)
                for name, m in modules.items()
                if isinstance(m, nn.ModuleList | nn.Sequential)
            },
        )


@dataclass(frozen=True)
class GraphFacts:
    """What is known of one graph's nodes in terms of the root model."""

    names: ModelNames
    parameters: dict[Node, str] = field(default_factory=dict)
    buffers: dict[Node, str] = field(default_factory=dict)

    def parameter_of(self, node: Node) -> str | None:
        """Qualified name of the model parameter that a placeholder or get_attr node is."""
        return self.parameters.get(node)

    def buffer_of(self, node: Node) -> str | None:
        """Qualified name of the model buffer that a placeholder or get_attr node is."""
        return self.buffers.get(node)

    @staticmethod
    def calls_nested(gm: GraphModule, node: Node) -> bool:
        """Whether the node hands its operands to a graph nested in `gm`."""
        return bool(_bodies(gm, node))

    def module_paths(self, node: Node) -> list[str]:
        """Qualified names of the modules that were running when `node` was recorded, outer first.

        Modules above the captured frame are not among them, nor is the frame's own.
        """
        found = (self.names.modules.get(_module_id(key)) for key in _stack(node))
        return [path for path in found if path is not None]

    def module_path(self, node: Node) -> str | None:
        """Qualified name of the innermost module that was running, None at the frame's level."""
        paths = self.module_paths(node)
        return paths[-1] if paths else None

    def call_key(self, node: Node, path: str) -> str | None:
        """A key that tells one call of the module `path` from its other calls in this graph."""
        for key in _stack(node):
            if self.names.modules.get(_module_id(key)) == path:
                return key
        return None


@dataclass(frozen=True)
class CapturedGraph:
    """One graph that Dynamo recorded, or the body of a higher-order operator in one.

    sizes: of the call at hand, where they may vary.
    parent, caller: for such a body, the graph that calls it, and the calling node there.
    """

    gm: GraphModule
    facts: GraphFacts
    sizes: Sizes
    parent: "CapturedGraph | None" = None
    caller: Node | None = None


def facts_for(gm: GraphModule, example_inputs: Sequence[Any], names: ModelNames) -> GraphFacts:
    """Identify the inputs of a graph that Dynamo handed to a backend.

    Args:
        gm: The graph.
        example_inputs: What the backend received with it, one per placeholder.
        names: The root model's names.
    """
    placeholders = gm.graph.find_nodes(op="placeholder")
    return _identified(gm, dict(zip(placeholders, example_inputs, strict=True)), names)


def copied(gm: GraphModule) -> GraphModule:
    """A copy to rewrite, nested graphs included; Dynamo goes on reading the one that it made."""
    graph = Graph()
    values: dict[Node, Node] = {}
    result = graph.graph_copy(gm.graph, values)
    last = gm.graph.output_node()
    graph.output(result).meta.update(last.meta)
    twin = GraphModule(gm, graph)
    twin.meta.update(gm.meta)
    for name, child in gm.named_children():
        if isinstance(child, GraphModule):
            setattr(twin, name, copied(child))
    return twin


def graphs_of(
    gm: GraphModule, example_inputs: Sequence[Any], names: ModelNames
) -> list[CapturedGraph]:
    """The graph with its facts, and after it every graph nested in it, at any depth.

    A parameter that reaches a nested graph as an operand keeps its name there.
    """
    facts = facts_for(gm, example_inputs, names)
    root = CapturedGraph(gm, facts, Sizes(gm, example_inputs))
    return [root, *_nested(root)]


def _nested(outer: CapturedGraph) -> list[CapturedGraph]:
    found: list[CapturedGraph] = []
    for caller in outer.gm.graph.nodes:
        for body in _bodies(outer.gm, caller):
            facts = _threaded(outer, caller, body)
            inner = CapturedGraph(body, facts, outer.sizes, outer, caller)
            found += [inner, *_nested(inner)]
    return found


def _bodies(gm: GraphModule, caller: Node) -> list[GraphModule]:
    if caller.op != "call_function":
        return []
    attributes = (arg for arg in caller.args if isinstance(arg, Node) and arg.op == "get_attr")
    values = (attrgetter(str(arg.target))(gm) for arg in attributes)
    return [value for value in values if isinstance(value, GraphModule)]


def _threaded(outer: CapturedGraph, caller: Node, body: GraphModule) -> GraphFacts:
    """Facts of a body whose last placeholders stand for the caller's last operands."""
    inner = _identified(body, {}, outer.facts.names)
    placeholders = body.graph.find_nodes(op="placeholder")
    operands = [a for a in caller.args if isinstance(a, Node) and not _is_body(outer.gm, a)]
    for placeholder, operand in zip(reversed(placeholders), reversed(operands), strict=False):
        if name := outer.facts.parameter_of(operand):
            inner.parameters[placeholder] = name
        if name := outer.facts.buffer_of(operand):
            inner.buffers[placeholder] = name
    return inner


def _is_body(gm: GraphModule, node: Node) -> bool:
    return node.op == "get_attr" and isinstance(attrgetter(str(node.target))(gm), GraphModule)


def _identified(gm: GraphModule, inputs: dict[Node, Any], names: ModelNames) -> GraphFacts:
    facts = GraphFacts(names)
    values = dict(inputs)
    for node in gm.graph.find_nodes(op="get_attr"):
        values[node] = attrgetter(str(node.target))(gm)
    for node, value in values.items():
        if not isinstance(value, torch.Tensor):
            continue
        if name := names.parameters.get(id(value)):
            facts.parameters[node] = name
        elif name := names.buffers.get(id(value)):
            facts.buffers[node] = name
    return facts


def _stack(node: Node) -> dict[str, Any]:
    stack = node.meta.get("nn_module_stack")
    return stack if isinstance(stack, dict) else {}


def _module_id(key: str) -> int:
    # Later calls of the same module have keys like "140233@1".
    digits = str(key).partition("@")[0]
    return int(digits) if digits.isdigit() else -1
