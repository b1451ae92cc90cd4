"""What the graph passes share while they rewrite one graph."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from torch.fx import Graph, Node, Proxy
from torch.fx.proxy import GraphAppendingTracer

from peftlang.capture.facts import VALUE, CapturedGraph
from peftlang.capture.memory import OVERWRITTEN
from peftlang.dataflow.listing import listing
from peftlang.emit.applications import Application
from peftlang.emit.slots import SLOT, Slot
from peftlang.ir.plan import ActivePlan, Site
from peftlang.sites.occurrence import Located, Occurrence

WRITTEN = "peftlang_written"
"""Key of ``node.meta`` that marks what a pass wrote."""


@dataclass(eq=False)
class Rewriting:
    """One graph on its way through the graph passes.

    Attributes:
        name: What the graph is of, in the model's names.
        graph: The operations.
        located: Where the sites run in it.
        active: Adapters in the order in which they act.
        acting: What acts at each site, by the site's id, in order.
        training: Whether dropout, sampling and penalties are on.
        given: What is known of the call besides its values, by the names of slots: another call may
            not have it.
        grids: What cuts images into patches in the model, and how many tokens stand before and
            after those patches, at each stage of their sequence.
        captured: The graph with what is known of it, where sites are still to be found in it.
        sought: Those sites.
        exported: What the graph hands on, by slot.
    """

    name: str
    graph: Graph
    located: Located
    active: tuple[ActivePlan, ...] = ()
    acting: Mapping[str, Sequence[Application]] = field(default_factory=dict)
    training: bool = False
    given: frozenset[str] = frozenset()
    grids: tuple[tuple[Slot, tuple[tuple[int, int], ...]], ...] = ()
    captured: CapturedGraph | None = None
    sought: tuple[Site, ...] = ()
    exported: dict[Slot, Node] = field(default_factory=dict)

    def has(self, slot: Slot) -> bool:
        """Whether the call has something."""
        return slot.key in self.given

    @cached_property
    def tracer(self) -> "Tracer":
        """What writes into the graph."""
        return Tracer(self.graph)

    def read(self, slot: Slot, like: torch.Tensor | None = None) -> Node:
        """The placeholder that takes a slot's value; there is one for each slot.

        Args:
            slot: Which value.
            like: What is known of it.
        """
        known: list[Node] = self.graph.find_nodes(op="placeholder")
        for node in known:
            if node.meta.get(SLOT) == slot:
                return node
        first = next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            made = self.graph.placeholder(f"{slot.kind}_{len(self.graph.nodes)}")
        made.meta |= {SLOT: slot, VALUE: like}
        return made

    def __str__(self) -> str:
        """The graph as text; what the passes wrote is marked, and where sites run."""
        sites: dict[Node, list[str]] = {}
        for occurrence in self.occurrences:
            sites.setdefault(occurrence.call, []).append(occurrence.site.id)
        text = listing(
            self.graph,
            self._given_name,
            is_written=lambda node: WRITTEN in node.meta,
            note=lambda node: ", ".join(sites.get(node, ())),
        )
        handed = "".join(f"\n  hand on {slot} = %{n.name}" for slot, n in self.exported.items())
        return f"{self.name}:\n{text}{handed}"

    def _given_name(self, node: Node) -> str | None:
        if SLOT in node.meta:
            return str(node.meta[SLOT])
        return self.captured.facts.given_name(node) if self.captured is not None else None

    @property
    def occurrences(self) -> Iterable[Occurrence]:
        """Every place in the graph where a site runs."""
        return [one for found in self.located.found.values() for one in found]


INSTEAD_OF = "peftlang_instead_of"
"""Key of ``node.meta``: the value in whose place a written one is read."""


class Tracer(GraphAppendingTracer):
    """A tracer that remembers the nodes that it made."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.made: list[Node] = []

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        node = super().create_node(*args, **kwargs)
        node.meta[WRITTEN] = True
        self.made.append(node)
        return node


class Emission:
    """Writes torch operations into a graph at one point.

    Values of one emission can be used in another of the same rewriting.

    Args:
        work: The rewriting.
        before: The node before which operations come.
    """

    def __init__(self, work: Rewriting, before: Node) -> None:
        self._point = work.graph.inserting_before(before)
        self._tracer = work.tracer
        self._first = len(self._tracer.made)

    def __enter__(self) -> Self:
        self._point.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:  # noqa: PYI036 -- handed on as they are
        self._point.__exit__(*exc)

    @property
    def made(self) -> list[Node]:
        """The nodes written since this emission began."""
        return self._tracer.made[self._first :]

    def proxy(self, node: Node) -> Any:
        """A node as a value to compute with."""
        return Proxy(node, self._tracer)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """A call of a function that fx is not to look into."""
        return self._tracer.create_proxy("call_function", function, args, {})


def node_of(value: Any) -> Node:
    """The node of a value that was computed with proxies."""
    node: Node = value.node
    return node


def replace(old: Node, new: Node, readers: Iterable[Node] = (), but: Iterable[Node] = ()) -> None:
    """Let the users of a node read another in its place.

    Args:
        old: The node whose value changes.
        new: What is read from now on.
        readers: The users that do; all for none.
        but: Those of all users that go on reading the old one: what ``new`` is made of.
    """
    new.meta[INSTEAD_OF] = old
    if OVERWRITTEN in old.meta:
        new.meta[OVERWRITTEN] = old.meta[OVERWRITTEN]
    chosen = set(readers) or {user for user in old.users if user not in set(but)}
    for user in [user for user in old.users if user in chosen and user is not new]:
        user.replace_input_with(old, new)
