"""Values on their way from one site to another, and out of the graph.

What a tap or a carried state reads comes to it as dataflow where both sites run in one graph, and
else by a slot, which the graph of the other site has filled earlier in the same call.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.diagnostics import PeftError
from peftlang.emit.applications import Application
from peftlang.emit.rewriting import Emission, Rewriting, node_of
from peftlang.emit.slots import Slot
from peftlang.emit.tokens import REAL, filled_slot, token_slot
from peftlang.emit.views import SiteView
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition, TapDef
from peftlang.ir.plan import Plan, Site, Tapped
from peftlang.ir.positions import POSITIONS
from peftlang.ir.soft_tokens import entries, reserved_at
from peftlang.ir.types import Level
from peftlang.sites.occurrence import Occurrence


def tap_slot(tap: Tapped) -> Slot:
    """Slot of what a tap reads."""
    return Slot("tap", f"{tap.site}.{tap.value}")


@dataclass(frozen=True)
class Chain:
    """A carried state on its way through one stack.

    Attributes:
        slot: The name that the state has between graphs.
        sites: Ids of the placement's sites in that stack, in the order in which they run.
    """

    slot: Slot
    sites: tuple[str, ...]


def chain_of(application: Application, plan: Plan, name: str) -> Chain:
    """The chain that a carried state of a method at a site belongs to."""
    placement, stack = application.placement, application.site.stack
    own = tuple(site for site in placement.sites if plan.sites[site].stack == stack)
    key = ".".join((placement.label, stack or "", name))
    return Chain(Slot("state", key, application.adapter), own)


def same(value: Any = None) -> Any:
    """What stands in a graph for a value that is not known yet; nothing is left of it."""
    return value


class Streams:
    """The values under way in one graph.

    Args:
        work: The rewriting.
        current: Gives the node that holds a name of an occurrence when all is written.
    """

    def __init__(self, work: Rewriting, current: Callable[[Occurrence, str], Node]) -> None:
        self.work, self._current = work, current
        self._states: dict[Slot, Node] = {}
        self._penalties: dict[Slot, list[Any]] = {}
        self._open: dict[Node, tuple[Occurrence, str]] = {}

    def plan_of(self, adapter: str) -> Plan:
        """The plan of one of the active adapters."""
        return next(a.plan for a in self.work.active if a.name == adapter)

    # Taps

    def tapped(self, tap: Tapped, reader: Occurrence) -> Node:
        """The node that holds what a tap reads."""
        found = self.work.located.found.get(tap.site, [])
        if not found:
            return self.work.read(tap_slot(tap))
        order = {node: place for place, node in enumerate(self.work.graph.nodes)}
        before = [one for one in found if order[one.call] <= order[reader.call]]
        source = (before or found[:1])[-1]
        first = next(n for n in self.work.graph.nodes if n.op != "placeholder")
        with self.work.graph.inserting_before(first):
            node = self.work.graph.call_function(same, ())
        node.meta[VALUE] = source.values[tap.value].meta.get(VALUE)
        self._open[node] = source, tap.value
        return node

    # Carried states

    def arriving(self, chain: Chain, site: Site) -> Node | None:
        """The node that holds a carried state before a site; None where it starts there."""
        if chain.slot in self._states:
            return self._states[chain.slot]
        if site.id == chain.sites[0] and not self.work.has(chain.slot):
            return None
        return self.work.read(chain.slot)

    def leave(self, chain: Chain, value: Node) -> None:
        """Say which node holds a carried state after a site."""
        self._states[chain.slot] = value

    # Penalties

    def penalise(self, slot: Slot, value: Any) -> None:
        """Add a term to a penalty."""
        self._penalties.setdefault(slot, []).append(value)

    # The end

    def finish(self, view_of: Callable[[Occurrence, Emission], SiteView]) -> None:
        """Join what was left open, and say what the graph hands on.

        Args:
            view_of: Gives a site's names as values, written at the end of the graph.
        """
        graph, exported = self.work.graph, self.work.exported
        output = graph.output_node()
        for node, (source, name) in self._open.items():
            with Emission(self.work, self._current(source, name).next) as emission:
                found = node_of(view_of(source, emission).read(name))
            node.replace_all_uses_with(found)
            graph.erase_node(node)
        with Emission(self.work, output) as emission:
            for slot, terms in self._penalties.items():
                exported[slot] = node_of(reduce(operator.add, terms))
            for tap in self._read_elsewhere():
                source = self.work.located.found[tap.site][-1]
                exported[tap_slot(tap)] = node_of(view_of(source, emission).read(tap.value))
        for slot, node in self._states.items():
            exported[slot] = node

    def _read_elsewhere(self) -> Iterable[Tapped]:
        """What sites that do not run in this graph read of those that do."""
        found = self.work.located.found
        for active in self.work.active:
            for placement in active.plan.placements:
                for reader, taps in placement.taps.items():
                    if reader not in found:
                        yield from (tap for tap in taps.values() if tap.site in found)


class Flows:
    """The taps, carried states and penalties of one application at one occurrence."""

    def __init__(self, streams: Streams, application: Application, occurrence: Occurrence) -> None:
        self.application, self._streams, self._occurrence = application, streams, occurrence
        self._carries = {carry.name: carry for carry in application.method.carries}
        self._started: dict[str, Any] = {}
        taps = application.placement.taps.get(application.site.id, {})
        self.arrived: dict[str, Node] = {
            name: streams.tapped(tap, occurrence) for name, tap in taps.items()
        }
        for name in self._carries:
            node = streams.arriving(self._chain(name), application.site)
            if node is not None:
                self.arrived[name] = node

    def _chain(self, name: str) -> Chain:
        plan = self._streams.plan_of(self.application.adapter)
        return chain_of(self.application, plan, name)

    def has(self, name: str) -> bool:
        """Whether a name is a tap or a carried state."""
        return name in self.arrived or name in self._carries

    def value(self, name: str, view: SiteView, interpret: Interpreter) -> Any:
        """What a tap or a carried state is at the site."""
        if name in self.arrived:
            return self._as_here(name, view)
        if name not in self._started:
            carry = self._carries[name]
            start = interpret(carry.init)
            if (not carry.init.type.dims and carry.dims) or isinstance(start, int | float):
                start = self._filled(start, [interpret.size(dim) for dim in carry.dims], view)
            self._started[name] = start
        return self._started[name]

    def real(self, dim: Dim, view: SiteView) -> Any:
        """Which tokens of the tapped sequence of this length are no padding, ``[batch, length]``.

        None where all are, or the length is of no tapped sequence.
        """
        for tap in self.application.method.taps:
            if tap.sequence and tap.dims[0] == dim:
                other = self._site_of(tap.name)
                return self._filled_part(self._real_of(other, view), other, view)
        if self._occurrence.site.role == "prompt" and dim == Dim.of("tokens"):
            return self._real_before(view)
        return None

    def _real_before(self, view: SiteView) -> Any:
        """Which tokens of the sequence that a prompt finds are no padding."""
        site, application = self._occurrence.site, self.application
        real = self._filled_part(self._real_of(site, view), site, view)
        own = [entry for entry in entries(view.work.active) if entry.site.id == site.id]
        mine = [(e.adapter, e.label) for e in own].index(
            (application.adapter, application.placement.label)
        )
        return None if real is None else real[:, sum(entry.count for entry in own[mine:]) :]

    def _site_of(self, tap: str) -> Site:
        """The site that a tap reads."""
        application = self.application
        read = application.placement.taps[application.site.id][tap].site
        return self._streams.plan_of(application.adapter).concerned[read]

    def _real_of(self, site: Site, view: SiteView) -> Any:
        slot = token_slot(site.sequence, REAL)
        return view.emission.proxy(view.work.read(slot)) if view.work.has(slot) else None

    def _filled_part(self, value: Any, site: Site, view: SiteView) -> Any:
        """A sequence ``[batch, tokens, …]`` at a site without positions still to be filled."""
        reserved = view.work.has(filled_slot(site.sequence))
        room = reserved_at(view.work.active, site) if reserved else 0
        return value[:, room:] if room and value is not None else value

    def _as_here(self, name: str, view: SiteView) -> Any:
        """What arrived, with batch and tokens as one dimension where the site has them so."""
        value: Any = view.emission.proxy(self.arrived[name])
        tap = next((t for t in self.application.method.taps if t.name == name), None)
        if tap is not None and tap.sequence:
            return self._filled_part(value, self._site_of(name), view)
        if tap is None or view.occurrence.product is not None:
            return value
        here = view.emission.proxy(view.now[view.known])
        return view.emission.call(as_tokens_of, value, here, len(tap.dims), _told(tap, view.site))

    def _filled(self, start: Any, sizes: list[int], view: SiteView) -> Any:
        """A number for every token, and for every element of the state."""
        token: Any = view.read(view.known).detach()
        for _ in POSITIONS.get(view.site.role, POSITIONS["block"])[view.known].dims:
            token = token.select(-1, 0)
        filled = token.new_zeros(token.shape) + start
        if not sizes:
            return filled
        filled = filled.unsqueeze(-1).repeat_interleave(prod(sizes), dim=-1)
        return filled.unflatten(-1, sizes) if len(sizes) > 1 else filled

    def leave(self, composition: Composition, value: Any, interpret: Interpreter) -> None:
        """Hand a carried state to the next site."""
        if composition.value.type.level is not Level.TOKEN:
            before = interpret(Ref(composition.target, composition.value.type))
            value = value.unsqueeze(1) if composition.value.type.level is Level.EXAMPLE else value
            value = value.expand_as(before)
        self._streams.leave(self._chain(composition.target), node_of(value))

    def penalise(self, value: Any, have: Any, view: SiteView) -> None:
        """Add the site's share to the penalties: the mean over real tokens."""
        value = value.float()
        if have.level is not Level.CONST:
            value = view.average(value, have)
        application = self.application
        slot = Slot("penalty", application.placement.label, application.adapter)
        self._streams.penalise(slot, value)


def _told(tap: TapDef, site: Site) -> tuple[str, str]:
    return tap.name, site.id


def as_tokens_of(value: Any, here: Any, dims: int, told: tuple[str, str]) -> Any:
    """A value of each token, laid out as another site's tokens are: in rows, or all in one.

    Args:
        value: ``[batch, tokens, *dims]`` or ``[batch * tokens, *dims]``.
        here: The other site's hidden state.
        dims: How many dimensions of its own the value has.
        told: The tap and the site, for the error.

    Raises:
        PeftError: S416, the sites have different numbers of tokens.
    """
    flat, wanted = value.dim() - dims == 1, here.dim() == 2
    if flat == wanted:
        if not flat and value.shape[1] != here.shape[1]:
            tap, site = told
            raise PeftError(
                f"the tap `{tap}` reads {value.shape[1]} tokens, and {site} has {here.shape[1]}",
                code="S416",
                help=f"tap a site of the same sequence, or the whole of it: `{tap}[n, ...]`",
            )
        return value
    return value.unflatten(0, [here.shape[0], here.shape[1]]) if flat else value.flatten(0, 1)
