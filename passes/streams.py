"""Values on their way from one site to another, and out of the graph.

Requires: located sites. Ensures: what a tap or a carried state reads in a graph, or in a graph
nested in it, comes to it as dataflow; what another graph of the same call reads, and penalties,
are further outputs of the outermost graph, named in ``exported``; every graph is in order.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.ir.plan import Plan, Site, Tapped
from peftlang.passes.attention_view import AttentionView
from peftlang.passes.occurrence import Located, Occurrence
from peftlang.passes.ordering import in_order
from peftlang.passes.rewriting import Emission, Rewriting, SlotReads
from peftlang.passes.views import ProjectionView, SiteView

STREAM = "+stream."
"""What begins the slot name of a value that another graph of the same call made."""

PENALTY = "penalty."
"""What begins the name of an output that is a term of the loss."""

Order = tuple[int, ...]


def same(value: Any = None) -> Any:
    """What stands in a graph for a value that is not known yet; nothing is left of it."""
    return value


def view_of(occurrence: Occurrence, emission: Emission, reads: SlotReads) -> SiteView:
    """A site's names as values of the language."""
    if occurrence.product is not None:
        return AttentionView(occurrence, emission, reads)
    return ProjectionView(occurrence, emission, reads)


@dataclass(frozen=True)
class Place:
    """One occurrence in one of the graphs, and where it stands among all of them."""

    graph: int
    occurrence: Occurrence
    order: Order


@dataclass(frozen=True)
class Chain:
    """A carried state on its way through one stack.

    Attributes:
        key: Adapter, placement, stack and name.
        sites: Ids of the placement's sites in that stack, in the order in which they run.
    """

    key: tuple[str, str, str, str]
    sites: tuple[str, ...]

    @property
    def slot(self) -> str:
        """The name that the state has between graphs."""
        return STREAM + ".".join(("carry", *self.key))


@dataclass
class Streams:
    """The values under way in the graphs of one rewriting."""

    work: Rewriting
    reads: list[SlotReads]
    penalties: dict[str, list[tuple[int, Node]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places = _places(self.work)
        self._sources: dict[tuple[int, str, str], tuple[int, Node]] = {}
        self._arrived: dict[tuple[int, Node], Node] = {}
        self._out: dict[Node, Node] = {}
        self._pending: dict[Node, tuple[int, Chain, Order]] = {}
        self._left: dict[Chain, list[tuple[Order, int, Node]]] = {}
        self._exports: dict[str, tuple[int, Node]] = {}
        self._stand_ins: list[tuple[int, Node]] = []
        for active in self.work.active:
            for placement in active.plan.placements:
                for site_id, taps in placement.taps.items():
                    for tap in taps.values():
                        self._prepare(tap, site_id)

    def plan_of(self, adapter: str) -> Plan:
        """The plan of one of the active adapters."""
        return next(a.plan for a in self.work.active if a.name == adapter)

    # Taps

    def _prepare(self, tap: Tapped, reader: str) -> None:
        """Lay hold of a tapped value before anything is written: it follows what is."""
        for place in self.places.get(tap.site, ()):
            key = (id(place.occurrence), tap.site, tap.value)
            if key not in self._sources:
                self._sources[key] = place.graph, self._laid_out(place, tap.value)
        if reader not in self.places and tap.site in self.places:
            last = self.places[tap.site][-1]
            self._exports[_tap_slot(tap)] = self._sources[id(last.occurrence), tap.site, tap.value]

    def _laid_out(self, place: Place, value: str) -> Node:
        occurrence = place.occurrence
        with Emission(occurrence.values[value]) as emission:
            raw = emission.graph.call_function(same, (occurrence.values[value],))
            raw.meta.update(occurrence.values[value].meta)
            self._stand_ins.append((place.graph, raw))
        if occurrence.readers.get(value):
            occurrence.readers[value] = (*occurrence.readers[value], raw)
        held = replace(occurrence, values={**occurrence.values, value: raw})
        with Emission(raw) as emission:
            found: Node = view_of(held, emission, self.reads[place.graph]).read(value).node
        found.meta.setdefault("example_value", raw.meta.get("example_value"))
        return found

    def tapped(self, tap: Tapped, graph: int, occurrence: Occurrence) -> Node:
        """The node in a graph that holds what a tap reads there."""
        order = self._order_of(occurrence)
        places = self.places.get(tap.site, [])
        if not places:
            return self.reads[graph](_tap_slot(tap))
        before = [place for place in places if place.order <= order]
        source = self._sources[id((before or places[:1])[-1].occurrence), tap.site, tap.value]
        return self._delivered(*source, graph)

    # Carried states

    def arriving(self, chain: Chain, graph: int, occurrence: Occurrence) -> Node | None:
        """The node that holds a carried state before a site; None before the first."""
        order = self._order_of(occurrence)
        earlier = [p for site in chain.sites for p in self.places.get(site, ()) if p.order < order]
        if not earlier and occurrence.site.id == chain.sites[0]:
            return None
        if not earlier:
            return self.reads[graph](chain.slot)
        gm = self.work.graphs[graph].gm
        first = next(n for n in gm.graph.nodes if n.op != "placeholder")
        with gm.graph.inserting_before(first):
            node = gm.graph.call_function(same, ())
        self._pending[node] = (graph, chain, max(p.order for p in earlier))
        return node

    def leaving(self, chain: Chain, graph: int, occurrence: Occurrence, value: Node) -> None:
        """Say which node holds a carried state after a site."""
        self._left.setdefault(chain, []).append((self._order_of(occurrence), graph, value))

    def _order_of(self, occurrence: Occurrence) -> Order:
        found = self.places[occurrence.site.id]
        return next(place.order for place in found if place.occurrence is occurrence)

    def _export_states(self) -> None:
        for chain, left in self._left.items():
            if any(site not in self.places for site in chain.sites):
                _, graph, node = max(left, key=lambda entry: entry[0])
                self._exports[chain.slot] = graph, node

    def hold(self, graph: int, emission: Emission, node: Node) -> Node:
        """A stand-in, written by ``emission``, for a value that a later step may change."""
        held = emission.stand_in(same, node)
        self._stand_ins.append((graph, held))
        return held

    # The end

    def finish(self) -> None:
        """Join all that was left open, name the outputs, and put every graph in order.

        Raises:
            PeftError: S417, a value is read before it is there.
        """
        self._export_states()
        for node, (graph, chain, order) in self._pending.items():
            source = next((g, n) for o, g, n in self._left[chain] if o == order)
            node.args = (self._delivered(*source, graph),)
            self._stand_ins.append((graph, node))
        totals = {PENALTY + name: self._total(parts) for name, parts in self.penalties.items()}
        exports = {name: self._outermost(*source) for name, source in self._exports.items()}
        for _, node in self._stand_ins:
            value = node.args[0]
            assert isinstance(value, Node)
            self._out = {k: value if v is node else v for k, v in self._out.items()}
            exports = {k: value if v is node else v for k, v in exports.items()}
            node.replace_all_uses_with(value)
            node.graph.erase_node(node)
        _add_outputs(self.work.outermost, [*totals.values(), *exports.values()])
        self.work.exported = [*totals, *exports]
        for captured in self.work.graphs:
            in_order(captured)

    def _total(self, parts: Iterable[tuple[int, Node]]) -> Node:
        nodes = [self._outermost(graph, node) for graph, node in parts]
        total = nodes[0]
        last = self.work.outermost.gm.graph.output_node()
        for node in nodes[1:]:
            with last.graph.inserting_before(last):
                total = last.graph.call_function(operator.add, (total, node))
        return total

    def _outermost(self, graph: int, node: Node) -> Node:
        """The node of the outermost graph that holds what a nested graph made."""
        if node in self._out:
            return self._out[node]
        own, found = self.work.graphs[graph], node
        while own.parent is not None:
            assert own.caller is not None
            index = _add_outputs(own, [found])
            with own.caller.graph.inserting_after(own.caller):
                found = own.caller.graph.call_function(operator.getitem, (own.caller, index))
            own = own.parent
        self._out[node] = found
        return found

    def _delivered(self, source: int, node: Node, graph: int) -> Node:
        """The node of one graph that holds what another made."""
        if source == graph:
            return node
        key = (graph, node)
        if key not in self._arrived:
            self._arrived[key] = _into(self.work.graphs[graph], self._outermost(source, node))
        return self._arrived[key]


def chain_of(adapter: str, label: str, sites: Iterable[Site], site: Site, name: str) -> Chain:
    """The chain that a site's carried state belongs to."""
    own = tuple(other.id for other in sites if other.stack == site.stack)
    return Chain((adapter, label, site.stack or "", name), own)


def _tap_slot(tap: Tapped) -> str:
    return f"{STREAM}tap.{tap.site}.{tap.value}"


def _places(work: Rewriting) -> dict[str, list[Place]]:
    """Every occurrence of every site, in the order in which they run."""
    orders: dict[int, Order] = {}
    positions: list[Mapping[Node, int]] = []
    found: dict[str, list[Place]] = {}
    located: Located
    for index, (graph, located) in enumerate(zip(work.graphs, work.located, strict=True)):
        own = {node: place for place, node in enumerate(graph.gm.graph.nodes)}
        positions.append(own)
        if graph.parent is not None and graph.caller is not None:
            outer = next(i for i, other in enumerate(work.graphs) if other is graph.parent)
            orders[index] = (*orders[outer], positions[outer][graph.caller])
        else:
            orders[index] = ()
        for site_id, occurrences in located.found.items():
            for one in occurrences:
                last = one.values.get("h", one.call)
                place = Place(index, one, (*orders[index], own[last]))
                found.setdefault(site_id, []).append(place)
    return {name: sorted(places, key=lambda p: p.order) for name, places in found.items()}


def _add_outputs(graph: CapturedGraph, nodes: list[Node]) -> int:
    """Let a graph give out more; the place of the first among its outputs."""
    output = graph.gm.graph.output_node()
    given = output.args[0]
    before = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if nodes:
        output.args = ((*before, *nodes),)
    return len(before)


def _into(graph: CapturedGraph, node: Node) -> Node:
    """A node of the outermost graph as an operand of a nested one, at any depth."""
    if graph.parent is None:
        return node
    outer = _into(graph.parent, node)
    assert graph.caller is not None
    last = [n for n in graph.gm.graph.nodes if n.op == "placeholder"][-1]
    with graph.gm.graph.inserting_after(last):
        found = graph.gm.graph.placeholder(f"peftlang_stream_{len(graph.gm.graph.nodes)}")
    found.meta["example_value"] = node.meta.get("example_value")
    graph.caller.args = (*graph.caller.args, outer)
    return found
