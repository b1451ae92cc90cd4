"""insert: write each method's expressions into the graph as torch operations.

Requires: sites located in the graph. Ensures: each occurrence of a site computes what the active
methods say, what they take from outside are placeholders that carry a slot, what they hand on is
in ``exported``, and a graph without sites is unchanged.

What acts on one operation is written at two points: changes of what the operation reads before it,
changes of what it made after it. Points are taken in the order in which the graph runs, so that
each finds what those before it have made.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node, Proxy

from peftlang.dataflow.ordering import in_order
from peftlang.diagnostics import PeftError
from peftlang.emit import casts
from peftlang.emit.applications import Application
from peftlang.emit.attention_view import AttentionView
from peftlang.emit.evaluate import (
    Finding,
    Operands,
    Values,
    change_operands,
    change_results,
    interpreter,
)
from peftlang.emit.experts import change_experts
from peftlang.emit.lengthen import lengthen
from peftlang.emit.rewriting import Emission, Rewriting, node_of, replace
from peftlang.emit.streams import Flows, Streams
from peftlang.emit.views import ProjectionView, SiteView
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition
from peftlang.ir.plan import Rows
from peftlang.sites.occurrence import NESTING, Occurrence, operation_of


def insert(work: Rewriting) -> None:
    """Insert every active method at every occurrence of its sites."""
    writer = _Writer(work)
    change_experts(work, work.acting)
    for point in _points(work, _operations(work)):
        writer(point)
    writer.streams.finish(writer.view)
    in_order(work.graph)


@dataclass(eq=False)
class _Operation:
    """What acts on one operation of the graph, or on some of the rows that it makes.

    Attributes:
        acting: Methods with the occurrences at which they act, in order.
        flows: What each of them reads of other sites.
        operands: What the operation reads, when methods have changed it.
        found: Each method with the operands that it finds.
    """

    acting: list[tuple[Application, Occurrence]]
    flows: dict[Application, Flows] = field(default_factory=dict)
    operands: Operands | None = None
    found: list[Finding] = field(default_factory=list)

    @property
    def occurrence(self) -> Occurrence:
        """The place, as one of the sites has it."""
        return self.acting[0][1]

    @property
    def targets(self) -> set[str]:
        """Names whose values are changed before the operation."""
        return {c.target for application, _ in self.acting for c in application.operands}

    @property
    def nesting(self) -> int:
        """How far out it stands among positions whose result may be one node."""
        role = self.occurrence.site.role
        return NESTING.index(role) if role in NESTING else 0

    def read(self) -> list[str]:
        """Names that are read, what the operation makes aside; in an order that stays."""
        found = self.targets.union(*(application.reads for application, _ in self.acting))
        parts = (o.site.rows for a, o in self.acting for c in a.operands if c.target == "x")
        if any(parts):
            found |= {"x", "W", "b"}
        return sorted(found & self.occurrence.values.keys() - {"h"})


Point = tuple[_Operation, bool]
"""What acts on an operation, and whether it changes what it made, rather than what it reads."""


def _rows(application: Application, occurrence: Occurrence) -> Rows | None:
    """The rows that a method acts on, of those that the operation makes."""
    return None if occurrence.sliced else application.site.rows


def _operations(work: Rewriting) -> list[_Operation]:
    """What acts on each operation."""
    found: dict[tuple[Node, str], _Operation] = {}
    for occurrence in work.occurrences:
        site = occurrence.site
        for application in () if site.is_expert else work.acting.get(site.id, ()):
            found.setdefault(operation_of(occurrence), _Operation([])).acting.append(
                (application, occurrence)
            )
    for operation in found.values():
        operation.acting.sort(key=lambda pair: pair[0].rank)
    return list(found.values())


def _points(work: Rewriting, operations: Iterable[_Operation]) -> list[Point]:
    """Where something is written, in the order in which the graph runs."""
    order = {node: place for place, node in enumerate(work.graph.nodes)}

    def place(point: Point) -> tuple[int, int]:
        operation, after = point
        occurrence = operation.occurrence
        if after:
            return order[occurrence.values.get("h", occurrence.call)], operation.nesting
        readers = [r for t in operation.targets for r in occurrence.readers.get(t, ())]
        first = min((order[r] for r in readers), default=order[occurrence.call])
        # An outer position changes what it reads before the inner ones find it.
        return first, -1 - operation.nesting

    points = [(one, after) for one in operations for after in (False, True)]
    return sorted((p for p in points if p[1] or p[0].targets), key=place)


class _Writer:
    """Writes what acts on each operation.

    Attributes:
        streams: Values under way between sites.
    """

    def __init__(self, work: Rewriting) -> None:
        self.work = work
        self.streams = Streams(work, self.current)
        self._moved: dict[tuple[Node, Node | None], Node] = {}

    def __call__(self, point: Point) -> None:
        operation, after = point
        for application, occurrence in operation.acting:
            if application not in operation.flows:
                flows = Flows(self.streams, application, occurrence)
                operation.flows[application] = flows
        read = {*operation.read(), *(["h"] if after and "h" in operation.occurrence.values else [])}
        with Emission(self.work, self._behind(operation, read)) as emission:
            writing = _Writing(self, operation, emission, after=after)
            if operation.operands is None:
                writing.operands()
            if after:
                writing.results()

    def current(self, occurrence: Occurrence, name: str) -> Node:
        """The node that holds a name now, for those that read it on behalf of the site."""
        node = occurrence.values[name]
        for reader in occurrence.readers.get(name, ()):
            if (node, reader) in self._moved:
                return self._moved[node, reader]
        return self._moved.get((node, None), node)

    def move(self, occurrence: Occurrence, name: str, new: Node, made: Iterable[Node]) -> None:
        """Let those that read a name on behalf of the site read another node."""
        node, old = occurrence.values[name], self.current(occurrence, name)
        readers = occurrence.readers.get(name, ())
        replace(old, new, readers, but=made)
        for reader in readers or (None,):
            self._moved[node, reader] = new

    def view(self, occurrence: Occurrence, emission: Emission) -> SiteView:
        """A site's names as values of the language, as they are now."""
        kind = ProjectionView if occurrence.product is None else AttentionView
        view = kind(occurrence, emission, self.work)
        view.now = {name: self.current(occurrence, name) for name in occurrence.values}
        return view

    def _behind(self, operation: _Operation, read: Iterable[str]) -> Node:
        """The first node behind all that is read."""
        needed = {self.current(operation.occurrence, name) for name in read}
        needed |= {node for flow in operation.flows.values() for node in flow.arrived.values()}
        last: Node = next(n for n in reversed(self.work.graph.nodes) if n in needed)
        while last.next.op == "placeholder":
            last = last.next
        return last.next


class _Writing:
    """What is written at one point.

    Args:
        writer: What writes the graph.
        operation: What acts.
        emission: Where.
        after: Whether the operation has run.
    """

    def __init__(
        self, writer: _Writer, operation: _Operation, emission: Emission, *, after: bool
    ) -> None:
        self._writer, self._operation, self._emission = writer, operation, emission
        self._views = {a: writer.view(o, emission) for a, o in operation.acting}
        self._view = next(iter(self._views.values()))
        if not after:
            for view in self._views.values():
                view.known = "q" if view.occurrence.product is not None else "x"

    def operands(self) -> None:
        """Change what the operation reads."""
        operation, view = self._operation, self._view
        old = {name: view.read(name) for name in operation.read()}
        operation.operands = Operands(old)
        acting = [(a, _rows(a, o)) for a, o in operation.acting]
        operation.found = change_operands(acting, operation.operands, self._interpret, self._settle)
        new = {k: v for k, v in operation.operands.values.items() if v is not old[k]}
        if isinstance(view, AttentionView):
            new = self._lengthened(view, new)
        for name in sorted(new):
            self._move(name, new[name])

    def results(self) -> None:
        """Change what the operation made."""
        operation, view = self._operation, self._view
        assert operation.operands is not None
        made = view.read("h") if "h" in view.now else None
        h = operation.operands.with_parts(made)
        h = change_results(
            operation.found,
            h,
            self._interpret,
            self._settle,
            self._hand_on,
            self._penalise if self._writer.work.training else None,
        )
        if h is not made:
            self._move("h", h)

    def _move(self, name: str, value: Any) -> None:
        node = node_of(self._view.restored(name, value))
        self._writer.move(self._operation.occurrence, name, node, self._writer.work.tracer.made)

    def _lengthened(self, view: AttentionView, new: dict[str, Any]) -> dict[str, Any]:
        """What is left to change when masks have room for learned keys."""
        clauses = [(a, c) for a, _ in self._operation.acting for c in a.operands]
        extra = sum(_added_keys(a, c) for a, c in clauses if c.target == "k")
        if not extra:
            return new
        if "q" in new:
            self._move("q", new.pop("q"))
            view.now["q"] = self._writer.current(view.occurrence, "q")
        lengthen(view, new["k"], extra)
        if view.product.kind == "sdpa":
            return new
        own = any(c.target == "k" and not _keeps_own(c.value) for _, c in clauses)
        keys = new.pop("k")
        return {**new, "k": keys[:, extra:]} if own else new

    def _interpret(self, application: Application, values: Values) -> Interpreter:
        emission, work = self._emission, self._writer.work
        view, flow = self._views[application], self._operation.flows[application]
        held = [application.slot(t.name) for t in application.method.tensors if t.kind == "float"]
        wide = [emission.proxy(work.read(slot)) for slot in held if slot is not None]
        weights = [values[n] for n in ("W", "b") if n in application.method.targets and n in values]
        first = next((c.target for c in application.operands if c.target in values), "h")
        like = values.get("h", values.get(first))

        def typed(value: Any) -> Any:
            if weights:
                return emission.call(casts.as_widest, value, *weights, *wide)
            return value if like is None else emission.call(casts.as_type_of, value, like)

        def own(_application: Application, name: str) -> Any:
            slot = application.slot(name)
            if slot is not None:
                value = emission.proxy(work.read(slot))
                return typed(value) if application.is_float(name) else value
            return flow.value(name, view, made) if flow.has(name) else None

        found = {
            k: typed(v) if k in {"W", "b"} & application.reads else v for k, v in values.items()
        }
        made = interpreter(
            application,
            found,
            own,
            training=work.training,
            site=view,
            precise=lambda value: emission.call(casts.precise, value),
            real=lambda dim: flow.real(dim, view),
        )
        return made

    def _settle(self, application: Application, clause: Composition, value: Any, old: Any) -> Any:
        """A new value in the number type of the old one, where anything could have changed it."""
        if old is None or not isinstance(value, Proxy):
            return value
        return self._emission.call(casts.as_type_of, value, old)

    def _hand_on(
        self, application: Application, evaluate: Interpreter, clause: Composition, value: Any
    ) -> None:
        self._operation.flows[application].leave(clause, value, evaluate)

    def _penalise(self, application: Application, evaluate: Interpreter, penalty: Expr) -> None:
        flow, view = self._operation.flows[application], self._views[application]
        flow.penalise(evaluate(penalty), penalty.type, view)


# Learned keys


def _added_keys(application: Application, clause: Composition) -> int:
    """How many learned keys a clause on ``k`` or ``v`` puts before the model's own.

    Raises:
        PeftError: S411, they are put elsewhere than in front.
    """
    value = clause.value
    if not value.type.dims:
        return 0
    extra = value.type.dims[0] - Dim.of("keys")
    count = extra.evaluate(application.sizes)
    if count and not _ends_with_keys(value):
        raise PeftError(
            f"`{clause.target}` of method `{application.method.name}` grows elsewhere than "
            "in front, so masks would not line up",
            code="S411",
            help=f"write `{clause.target} = concat(..., {clause.target})`",
        )
    return count


def _ends_with_keys(value: Expr) -> bool:
    is_concat = isinstance(value, Apply) and value.op == "concat"
    return is_concat and "keys" in value.args[-1].type.dims[0].symbols  # type: ignore[union-attr]


def _keeps_own(value: Expr) -> bool:
    """Whether the model's own keys stand behind the learned ones as they are."""
    last = value.args[-1] if isinstance(value, Apply) and value.op == "concat" else value
    return isinstance(last, Ref) and last.name == "k"
