"""A rewritten region, taken apart: what was written, in pieces that run where it is needed.

The model goes on running its own Python. What a pass wrote between two of its operations becomes a
piece of code that runs there: before a module's forward, before one of its operations, or behind
it. A piece is as late as it can be, so that little is kept.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Graph, Node

from peftlang.capture.facts import FUNCTION, STACK, asked_name
from peftlang.capture.memory import OVERWRITTEN
from peftlang.capture.mutation import operands_written
from peftlang.dataflow.borders import Border
from peftlang.diagnostics import PeftError
from peftlang.emit.rewriting import INSTEAD_OF, WRITTEN, Emission, Rewriting, node_of
from peftlang.emit.slots import SLOT, Slot
from peftlang.regions.code import compiled
from peftlang.regions.graphs import ASKED, BORDER, RegionGraph, forward, taken
from peftlang.regions.program import AtOperation, Kept, Operand, Piece, Program, Source, Target

BEFORE, AFTER = -1.0, math.inf


def cut(region: RegionGraph, work: Rewriting) -> Program | None:
    """The program of a rewritten region; None where nothing was written.

    Raises:
        PeftError: S417, something is needed before it is there.
    """
    return _Cut(region, work).program()


def copy_exported(work: Rewriting) -> None:
    """Hand on copies where the model writes into the memory of what is handed on."""
    for slot, node in work.exported.items():
        if slot.kind != "penalty" and any(map(_is_lost, _made_of(node))):
            with Emission(work, work.graph.output_node()) as emission:
                work.exported[slot] = node_of(emission.call(torch.clone, emission.proxy(node)))


@dataclass(eq=False)
class _Point:
    """What is needed at one time.

    Attributes:
        time: The place of the operation in the graph; before or behind all of them.
        node: The operation.
        wanted: The nodes, and where they go.
    """

    time: float
    node: Node | None = None
    wanted: list[tuple[Node, Target]] = field(default_factory=list)
    fixed: list[tuple[Operand, Any]] = field(default_factory=list)


class _Cut:
    def __init__(self, region: RegionGraph, work: Rewriting) -> None:
        self._region, self._work = region, work
        copy_exported(work)
        self._order = {node: place for place, node in enumerate(work.graph.nodes)}
        self._kept: dict[Node, Kept] = {}
        self._copies: dict[Node, Kept] = {}
        self._seen: dict[Node, Kept] = {}
        self._given: dict[Node, dict[Operand, Kept]] = {}
        self._opened = self._open()
        self._asked = [n for n in self._order if self._is_own(n)]
        self._arguments: dict[Border, Kept] = {}
        self._count = 0

    def program(self) -> Program | None:
        points = sorted(self._points(), key=lambda point: point.time)
        if not points:
            return None
        pieces = [(point, self._piece(point, points[i + 1 :])) for i, point in enumerate(points)]
        at: dict[float, Piece] = {point.time: piece for point, piece in pieces}
        operations = [self._at(p.node, piece) for p, piece in pieces if p.node is not None]
        others = dict.fromkeys((*self._seen, *self._given))
        operations += [self._at(n, None) for n in others if float(self._order[n]) not in at]
        last = max((operation.number for operation in operations), default=-1)
        return Program(
            at.get(BEFORE),
            tuple(operations),
            at.get(AFTER),
            tuple(self._arguments.items()),
            tuple(asked_name(n.meta[FUNCTION]) for n in self._asked[: last + 1]),
            self._opened,
        )

    def _at(self, node: Node, piece: Piece | None) -> AtOperation:
        given = tuple(self._given.get(node, {}).items())
        return AtOperation(self._asked.index(node), piece, given, self._seen.get(node))

    # Which operations count

    def _open(self) -> frozenset[str]:
        """The modules in which something is done, and those around them, up to the region's."""
        opened = {self._region.path}
        for node in self._work.graph.nodes:
            if ASKED in node.meta and node.target is not forward and _changes(node):
                opened |= self._around(node)
        written = [n for n in self._work.graph.nodes if n.meta.get(WRITTEN)]
        read = [operand for n in written for operand in n.all_input_nodes]
        for node in (*read, *self._work.exported.values()):
            if FUNCTION in node.meta and ASKED in node.meta:
                users = (user for user in node.users if ASKED in user.meta)
                if not any(self._around(one) <= opened for one in (node, *users)):
                    opened |= self._around(node)
        return frozenset(opened)

    def _around(self, node: Node) -> set[str]:
        """The modules within the region's in which an operation was asked for."""
        paths = [path for path, _ in node.meta.get(STACK, ())]
        start = paths.index(self._region.path) if self._region.path in paths else 0
        return set(paths[start:])

    def _is_own(self, node: Node) -> bool:
        if FUNCTION not in node.meta or ASKED not in node.meta:
            return False
        stack = node.meta.get(STACK, ())
        return (stack[-1][0] if stack else "") in self._opened

    # What is needed where

    def _points(self) -> list[_Point]:
        found: dict[float, _Point] = {}
        into = self._written_into()
        for node in self._work.graph.nodes:
            if ASKED not in node.meta:
                continue
            time = BEFORE if node.target is forward else float(self._order[node])
            for operand, old, new in _changes(node):
                if self._order[node] > into.get(old, AFTER):
                    continue
                point = found.setdefault(time, _Point(time, None if time == BEFORE else node))
                if not isinstance(new, Node):
                    point.fixed.append((operand, new))
                elif node.target is forward:
                    point.wanted.append((new, _outside(old)))
                else:
                    here = self._order[node] == into.get(old)
                    point.wanted.append((new, replace(operand, into=here)))
        given = self._work.graph.output_node().args[0]
        assert isinstance(given, tuple)
        for border, node in zip(self._region.outputs, given, strict=True):
            if isinstance(node, Node) and node.meta.get(WRITTEN) and _origin(node) not in into:
                found.setdefault(AFTER, _Point(AFTER)).wanted.append((node, border))
        taken_in = {n.meta[SLOT] for n in self._work.graph.nodes if SLOT in n.meta}
        for slot, node in self._work.exported.items():
            time, at = self._earliest(node)
            if slot in taken_in and max(found, default=BEFORE) > time:
                # A state goes out under the name under which it came in, and may still be read.
                time = max(found)
                at = found[time].node
            found.setdefault(time, _Point(time, at)).wanted.append((node, slot))
        return list(found.values())

    def _written_into(self) -> dict[Any, int]:
        """Values that change, and into which the model writes: by which operation first.

        There the model's own tensor is given the new value. What reads it later finds that.
        """
        found: dict[Any, int] = {}
        for node in self._work.graph.nodes:
            written = operands_written(node) if ASKED in node.meta else []
            for _, old, new in _changes(node) if written else ():
                if new in written:
                    found.setdefault(old, self._order[node])
        return found

    def _earliest(self, node: Node) -> tuple[float, Node | None]:
        """When a value can be handed on: modules within may read it in the same call."""
        closure = self._closure([node], None)
        leaves = {n for made in closure for n in made.all_input_nodes} - closure or {node}
        last = max(map(self._made, leaves))
        if last in {BEFORE, AFTER}:
            return last, None
        following = next((n for n in self._asked if self._order[n] > last), None)
        return (AFTER, None) if following is None else (float(self._order[following]), following)

    def _made(self, node: Node) -> float:
        if SLOT in node.meta or (BORDER in node.meta and node.meta[BORDER].side == "in"):
            return BEFORE
        return AFTER if node.target in {taken, forward} else float(self._order[node])

    def _piece(self, point: _Point, later: Iterable[_Point]) -> Piece:
        """The code for one point; of what it makes, what later ones need too is kept."""
        inside = self._closure((node for node, _ in point.wanted), point)
        again = self._closure((node for p in later for node, _ in p.wanted), None)
        targets = [target for _, target in point.wanted]
        results = [node for node, _ in point.wanted]
        graph, known = Graph(), dict[Node, Node]()
        sources: list[Source] = []
        for node in sorted(inside, key=self._order.__getitem__):
            for operand in node.all_input_nodes:
                if operand not in inside and operand not in known:
                    sources.append(self._source(operand, point))
                    known[operand] = graph.placeholder(f"v{len(sources)}")
        for node in results:
            if node not in inside and node not in known:
                sources.append(self._kept.get(node) or self._source(node, point))
                known[node] = graph.placeholder(f"v{len(sources)}")
        for node in sorted(inside, key=self._order.__getitem__):
            known[node] = graph.node_copy(node, known.__getitem__)
        for node in inside:
            if any(user in again and user not in inside for user in node.users) or any(
                node is wanted for p in later for wanted, _ in p.wanted
            ):
                results.append(node)
                targets.append(self._kept.setdefault(node, Kept(self._new())))
                if _is_lost(node):
                    # The model goes on with the value itself; what is written, with what it was.
                    results.append(node)
                    targets.append(self._copies.setdefault(node, Kept(self._new(), copied=True)))
        graph.output(tuple(known[node] for node in results))
        return Piece(compiled(graph), tuple(sources), tuple(targets), tuple(point.fixed))

    def _closure(self, nodes: Iterable[Node], point: _Point | None) -> set[Node]:
        """The written nodes that these are made of, and that no earlier piece has made."""
        found: set[Node] = set()
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node not in found and node.meta.get(WRITTEN) and node not in self._kept:
                found.add(node)
                pending += node.all_input_nodes
        del point
        return found

    def _source(self, node: Node, point: _Point) -> Source:
        if node in self._kept:
            return self._copies.get(node, self._kept[node])
        if SLOT in node.meta:
            slot: Slot = node.meta[SLOT]
            return slot
        border: Border | None = node.meta.get(BORDER)
        if border is not None and point.time == (BEFORE if border.side == "in" else AFTER):
            return border
        if border is not None and border.side == "in":
            return self._keep(self._arguments, border, node)
        asked = point.node if point.time <= self._ends(node) else None
        operand = _operand_of(asked, node) if asked is not None else None
        if asked is not None and operand is not None and _is_lost(node):
            return self._keep(self._given.setdefault(asked, {}), operand, node)
        return operand or self._earlier(node, point)

    def _ends(self, node: Node) -> float:
        """When the model writes something else into the memory of a value."""
        return self._order.get(node.meta.get(OVERWRITTEN), AFTER)

    def _earlier(self, node: Node, point: _Point) -> Kept:
        """A value that was there before, and is kept."""
        if node.target in {taken, forward} or not self._order[node] < point.time:
            raise _early(node)
        if node in self._asked:
            return self._keep(self._seen, node, node)
        until = min(point.time, self._ends(node) + 0.5)
        for reader in (user for user in self._asked if self._order[user] < until):
            operand = _operand_of(reader, node)
            if operand is not None:
                return self._keep(self._given.setdefault(reader, {}), operand, node)
        raise _early(node)

    def _keep(self, where: dict[Any, Kept], key: Any, node: Node) -> Kept:
        if key not in where:
            where[key] = Kept(self._new(), _is_lost(node))
        return where[key]

    def _new(self) -> int:
        self._count += 1
        return self._count


def _is_lost(node: Node) -> bool:
    """Whether the model writes into a value's memory, so that only a copy of it lasts."""
    return OVERWRITTEN in node.meta


def _origin(node: Node) -> Node:
    """The model's own value in whose place a written one is read."""
    while INSTEAD_OF in node.meta:
        node = node.meta[INSTEAD_OF]
    return node


def _made_of(node: Node) -> set[Node]:
    """A node, and of what was written all that it is made of, down to the model's own values."""
    found: set[Node] = set()
    pending = [node]
    while pending:
        one = pending.pop()
        if one not in found:
            found.add(one)
            pending += one.all_input_nodes if one.meta.get(WRITTEN) else []
    return found


def _early(node: Node) -> PeftError:
    return PeftError(
        f"what is changed before an operation of the model reads `{node}`, which is made behind it",
        code="S417",
        help="let the method change what comes later, or read what comes earlier",
    )


def _outside(old: Any) -> Target:
    """What an operand of a module's forward is, as the module is called."""
    assert isinstance(old, Node)
    target: Target = old.meta[BORDER] if BORDER in old.meta else old.meta[SLOT]
    return target


def _changes(node: Node) -> list[tuple[Operand, Any, Any]]:
    """Each operand of one of the model's own operations that is another now: old and new."""
    old_args, old_kwargs = node.meta[ASKED]
    found: list[tuple[Operand, Any, Any]] = []
    now: list[tuple[Any, Any]] = [*enumerate(node.args), *node.kwargs.items()]
    for key, new in now:
        old = _at(old_args, key) if isinstance(key, int) else old_kwargs.get(key)
        found += _differences(Operand(key), old, new)
    return found


def _at(values: Any, index: int) -> Any:
    return values[index] if index < len(values) else None


def _differences(operand: Operand, old: Any, new: Any) -> list[tuple[Operand, Any, Any]]:
    if isinstance(new, list | tuple) and isinstance(old, list | tuple) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        inner = [(Operand(operand.key, (*operand.path, i)), a, b) for i, (a, b) in pairs]
        return [change for o, a, b in inner for change in _differences(o, a, b)]
    same = old is new or (not isinstance(new, Node) and old == new)
    return [] if same else [(operand, old, new)]


def _operand_of(node: Node, wanted: Node) -> Operand | None:
    """The place of a value among the operands that the model itself gives an operation."""
    args, kwargs = node.meta[ASKED]

    def find(operand: Operand, value: Any) -> Operand | None:
        if value is wanted:
            return operand
        if isinstance(value, list | tuple):
            inner = (find(Operand(operand.key, (*operand.path, i)), v) for i, v in enumerate(value))
            return next(filter(None, inner), None)
        return None

    items: list[tuple[Any, Any]] = [*enumerate(args), *kwargs.items()]
    return next(filter(None, (find(Operand(key), value) for key, value in items)), None)
