"""The graph of one region: what passes rewrite."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node, map_arg

from peftlang.capture import CapturedGraph, GraphFacts, ModelNames, ModuleCall
from peftlang.capture.facts import FUNCTION, STACK, VALUE
from peftlang.capture.memory import OVERWRITTEN
from peftlang.capture.undisturbed import sizes_of
from peftlang.dataflow.borders import Border, Borders
from peftlang.emit.slots import SLOT, Slot
from peftlang.sites.occurrence import Occurrence

BORDER = "peftlang_border"
"""Key of ``node.meta``: where a value shows at the region's own border."""

ASKED = "peftlang_asked"
"""Key of ``node.meta``: the operands and options of one of the model's own operations."""


@dataclass(eq=False)
class RegionGraph:
    """A region's operations, and where sites run among them.

    Attributes:
        path: The module.
        graph: The operations; what comes from outside are placeholders with a slot or a border.
        occurrences: The sites, in terms of this graph.
        outputs: The values that the region gives, by border; the graph's output holds them.
        far: Values that show at the borders of other modules.
    """

    path: str
    graph: Graph = field(default_factory=Graph)
    occurrences: list[Occurrence] = field(default_factory=list)
    outputs: list[Border] = field(default_factory=list)
    far: list[Border] = field(default_factory=list)


def forward(*_inputs: Any) -> Any:
    """What stands in a graph for a module's own computation."""
    raise NotImplementedError


def taken(_result: Any, *_path: Any) -> Any:
    """What stands in a graph for one tensor of what a module gives, by its place there."""
    raise NotImplementedError


def at_border(
    captured: CapturedGraph, call: ModuleCall, sites: Iterable[tuple[Occurrence, Iterable[str]]]
) -> RegionGraph:
    """The graph of a region at a module's border: the module is one operation of it.

    Args:
        captured: The model's graph.
        call: A call of the module.
        sites: Where sites run, each with the names that are read or changed.
    """
    return _AtBorder(captured, call)(list(sites))


class _AtBorder:
    def __init__(self, captured: CapturedGraph, call: ModuleCall) -> None:
        self._borders, self._call = Borders.of(captured), call
        self._facts = captured.facts
        self._made = RegionGraph(call.path)
        self._nodes: dict[Node, Node] = {}
        self._results: dict[Node, Node] = {}

    def __call__(self, sites: list[tuple[Occurrence, Iterable[str]]]) -> RegionGraph:
        wanted = {o.values[name] for o, names in sites for name in names if name in o.values}
        order = self._borders.order
        inputs = sorted((n for n in wanted if not self._is_result(n)), key=order.__getitem__)
        for node in inputs:
            self._nodes[node] = self._given(node)
        graph = self._made.graph
        own = graph.call_function(forward, tuple(self._nodes[n] for n in inputs if self._enters(n)))
        for node in sorted((n for n in wanted if self._is_result(n)), key=order.__getitem__):
            border = self._borders.border(self._call, "out", node)
            result = graph.create_node(
                "call_function", taken, (own, *border.place.path), name=node.name
            )
            result.meta |= {**_known(node), BORDER: border}
            self._results[node] = result
            self._made.outputs.append(border)
        graph.output(tuple(self._results.values()))
        self._made.occurrences = [self._moved(o, own, names) for o, names in sites]
        own.meta[ASKED] = own.args, {}
        return self._made

    def _is_result(self, node: Node) -> bool:
        return node in self._call.outputs

    def _enters(self, node: Node) -> bool:
        return node in self._call.inputs or self._facts.parameter_of(node) is not None

    def _given(self, node: Node) -> Node:
        made = _placeholder(self._made.graph, node)
        name = self._facts.parameter_of(node)
        if name is not None:
            made.meta[SLOT] = Slot("weight", self._facts.names.at(self._call.path, name))
        elif node in self._call.inputs:
            made.meta[BORDER] = self._borders.border(self._call, "in", node)
        else:
            _, ends = self._borders.span(self._call)
            shown = self._borders.shown(node, ends)
            assert shown is not None, f"{node} shows nowhere before {self._call.path}"
            made.meta[SLOT] = Slot("value", str(shown))
            self._made.far.append(shown)
        return made

    def _moved(self, occurrence: Occurrence, own: Node, names: Iterable[str]) -> Occurrence:
        kept = {name for name in names if name in occurrence.values}
        known = {**self._nodes, **self._results}
        values = {name: known[occurrence.values[name]] for name in kept}
        readers: dict[str, tuple[Node, ...]] = {
            name: (own,) for name in kept if self._nodes.get(occurrence.values[name]) in own.args
        }
        return replace(
            occurrence,
            call=own,
            origin=occurrence.origin or occurrence.call,
            values=values,
            readers=readers,
            layout=dict(occurrence.layout),
        )


def _placeholder(graph: Graph, node: Node) -> Node:
    made = graph.placeholder(node.name)
    made.meta |= _known(node)
    return made


def _known(node: Node) -> dict[str, Any]:
    """What is known of a value, wherever it stands."""
    known = {VALUE: node.meta.get(VALUE)}
    return known | {k: node.meta[k] for k in (OVERWRITTEN,) if k in node.meta}


def inside(
    captured: CapturedGraph, call: ModuleCall, sites: Iterable[tuple[Occurrence, Iterable[str]]]
) -> RegionGraph:
    """The graph of a module's own operations, as they were recorded in one call of it."""
    borders, made = Borders.of(captured), RegionGraph(call.path)
    known: dict[Node, Node] = {}
    nodes = borders.inside(call)
    wanted = {o.values[name] for o, names in sites for name in names if name in o.values}
    outer = dict.fromkeys(call.inputs)
    outer |= dict.fromkeys(o for n in nodes for o in n.all_input_nodes if o not in set(nodes))
    outer |= dict.fromkeys(sorted(wanted - set(nodes), key=borders.order.__getitem__))
    for node in outer:
        known[node] = _outer(made, borders, captured.facts, call, node)
    for node in nodes:
        known[node] = made.graph.node_copy(node, known.__getitem__)
        known[node].meta[ASKED] = known[node].args, dict(known[node].kwargs)
    for node in known.values():
        if OVERWRITTEN in node.meta:
            node.meta[OVERWRITTEN] = known.get(node.meta[OVERWRITTEN], node.meta[OVERWRITTEN])
    results = [node for node in call.outputs if node in known]
    made.outputs = [borders.border(call, "out", node) for node in results]
    made.graph.output(tuple(known[node] for node in results))
    made.occurrences = [_copied(occurrence, known) for occurrence, _ in sites]
    return made


def _outer(
    made: RegionGraph, borders: Borders, facts: GraphFacts, call: ModuleCall, node: Node
) -> Node:
    placed = _placeholder(made.graph, node)
    name = facts.parameter_of(node)
    if name is not None:
        placed.meta[SLOT] = Slot("weight", facts.names.at(call.path, name))
    elif node in call.inputs:
        placed.meta[BORDER] = borders.border(call, "in", node)
    else:
        _, ends = borders.span(call)
        shown = borders.shown(node, ends)
        if shown is not None:
            placed.meta[SLOT] = Slot("value", str(shown))
            made.far.append(shown)
    return placed


def _copied(occurrence: Occurrence, known: Mapping[Node, Node]) -> Occurrence:
    def one(node: Any) -> Any:
        return known.get(node, node) if isinstance(node, Node) else node

    product = occurrence.product
    if product is not None:
        fields = ("mask", "scores", "softmax", "weights", "out_matmul")
        product = replace(product, **{name: one(getattr(product, name)) for name in fields})
    return replace(
        occurrence,
        call=one(occurrence.call),
        values={name: known[node] for name, node in occurrence.values.items() if node in known},
        readers={
            name: tuple(known[n] for n in nodes if n in known)
            for name, nodes in occurrence.readers.items()
        },
        layout=dict(occurrence.layout),
        product=product,
    )


# One operation, as it is called


def operation(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], weights: Mapping[Any, str]
) -> CapturedGraph:
    """The graph of one operation as torch is asked for it; its tensors are placeholders, in order.

    Args:
        function: What torch is asked for.
        args: Its operands; on the meta device, or with their values.
        kwargs: Those given by name.
        weights: Qualified names of the model's weights among them, by place or name.
    """
    graph, parameters = Graph(), dict[Node, str]()
    placeholders: dict[int, Node] = {}

    def placed(key: int | str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in placeholders:
            return placeholders[id(value)]
        node = placeholders[id(value)] = graph.placeholder(f"operand_{key}")
        # Of the tensor nothing is kept but what its kind is.
        node.meta[VALUE] = torch.empty(sizes_of(value), dtype=value.dtype, device="meta")
        if key in weights:
            parameters[node] = weights[key]
        return node

    operands = tuple(placed(place, value) for place, value in enumerate(args))
    options = {name: placed(name, value) for name, value in kwargs.items()}
    node = graph.call_function(function, operands, options)
    node.meta |= {FUNCTION: function, STACK: (), VALUE: _computed(node)}
    result: Any = node
    if isinstance(node.meta[VALUE], tuple):
        result = tuple(
            _part(graph, node, place, value) for place, value in enumerate(node.meta[VALUE])
        )
    graph.output(result)
    return CapturedGraph(graph, GraphFacts(ModelNames(), parameters))


def _computed(node: Node) -> Any:
    args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda n: n.meta[VALUE])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _part(graph: Graph, node: Node, place: int, value: Any) -> Node | None:
    if not isinstance(value, Tensor):
        return None
    part = graph.call_function(operator.getitem, (node, place))
    part.meta |= {VALUE: value, STACK: ()}
    return part
