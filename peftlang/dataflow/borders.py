"""Where a graph's values show when the model runs: going into a module, or coming out of one."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch.fx import Node

from peftlang.capture import CapturedGraph, ModuleCall, Place
from peftlang.capture.facts import FUNCTION, STACK
from peftlang.capture.memory import OVERWRITTEN

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Border:
    """One tensor at the border of a module.

    Attributes:
        path: The module.
        side: Among its arguments, or its results.
        place: Which.
        lasts: Whether the tensor keeps this value to the end of the call: that the model does not
            write into its memory.
    """

    path: str
    side: Side
    place: Place
    lasts: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        parts = [self.place.name, self.place.position] if self.side == "in" else []
        inner = ".".join(str(p) for p in (*parts, *self.place.path) if p is not None)
        return f"{self.path}:{self.side}:{inner}"


class Borders:
    """The calls of modules in a graph, and what goes in and out of them.

    Attributes:
        order: The place of each node in the graph.
    """

    def __init__(self, captured: CapturedGraph) -> None:
        self.captured = captured
        self.order: dict[Node, int] = {n: i for i, n in enumerate(captured.graph.nodes)}
        self._inside: dict[tuple[str, int], list[Node]] = {}
        for node in self.order:
            for key in node.meta.get(STACK, ()):
                self._inside.setdefault(key, []).append(node)
        self._with: dict[tuple[Node, Side], list[ModuleCall]] = {}
        for call in captured.calls:
            begins, ends = self.span(call)
            for node in call.inputs:
                if begins < self._ends(node):
                    self._with.setdefault((node, "in"), []).append(call)
            for node in call.outputs:
                if ends < self._ends(node):
                    self._with.setdefault((node, "out"), []).append(call)

    @classmethod
    def of(cls, captured: CapturedGraph) -> "Borders":
        """The borders in a graph, which are kept with it."""
        if cls not in captured.derived:
            captured.derived[cls] = cls(captured)
        kept: Borders = captured.derived[cls]
        return kept

    def _ends(self, node: Node) -> float:
        """When the model writes something else into the memory of a value."""
        return self.order.get(node.meta.get(OVERWRITTEN), math.inf)  # type: ignore[arg-type]

    def border(self, call: ModuleCall, side: Side, node: Node) -> Border:
        """Where a value shows at the border of a call."""
        place = (call.inputs if side == "in" else call.outputs)[node]
        return Border(call.path, side, place, OVERWRITTEN not in node.meta)

    def inside(self, call: ModuleCall) -> list[Node]:
        """The nodes that were recorded in a call, those of modules within it too."""
        return self._inside.get((call.path, call.number), [])

    def holds(self, call: ModuleCall, node: Node) -> bool:
        """Whether a node was recorded in a call."""
        return (call.path, call.number) in node.meta.get(STACK, ())

    def span(self, call: ModuleCall) -> tuple[float, float]:
        """When a call begins and ends, in places of the graph."""
        inside = self.inside(call)
        if inside:
            return self.order[inside[0]] - 0.5, self.order[inside[-1]] + 0.5
        ends = max((self.order[n] for n in (*call.inputs, *call.outputs)), default=0) + 0.25
        return ends, ends

    def with_input(self, node: Node) -> list[ModuleCall]:
        """The calls that take a node as an argument."""
        return self._with.get((node, "in"), [])

    def with_output(self, node: Node) -> list[ModuleCall]:
        """The calls that give a node as a result."""
        return self._with.get((node, "out"), [])

    def around(self, node: Node) -> Iterator[ModuleCall]:
        """The calls in which a node was recorded, innermost first."""
        calls = {(call.path, call.number): call for call in self.captured.calls}
        for key in reversed(node.meta.get(STACK, ())):
            yield calls[key]

    def shown(self, node: Node, before: float) -> Border | None:
        """The last border at which a node shows before a place of the graph."""
        found: list[tuple[float, int, Border]] = []
        for call in self.with_input(node):
            begins, _ = self.span(call)
            found.append((begins, 0, self.border(call, "in", node)))
        for call in self.with_output(node):
            _, ends = self.span(call)
            found.append((ends, 1, self.border(call, "out", node)))
        found = [entry for entry in found if entry[0] <= before]
        return max(found, key=lambda entry: entry[:2])[2] if found else None

    def own(self, call: ModuleCall) -> list[Node]:
        """The operations that a module itself asked for in a call."""
        key = call.path, call.number
        return [n for n in self.inside(call) if n.meta[STACK][-1] == key]

    def number_among(self, node: Node, nodes: Iterable[Node]) -> int:
        """How many of these came before a node and asked torch for the same function."""
        function = node.meta.get(FUNCTION)
        place = self.order[node]
        return sum(
            other.meta.get(FUNCTION) == function and self.order[other] < place for other in nodes
        )
