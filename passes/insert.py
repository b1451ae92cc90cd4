"""insert: write each method's expressions into the graph as torch operations.

Requires: sites located in every graph. Ensures: each occurrence of a site computes what the
active methods say, adapter values are read from attributes that carry a slot name, and a graph
without sites is unchanged.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph
from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref, names, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition
from peftlang.ir.plan import TRAINED
from peftlang.passes.attention_view import AttentionView
from peftlang.passes.experts import change_experts
from peftlang.passes.flows import Flows
from peftlang.passes.lengthen import lengthen
from peftlang.passes.occurrence import Located, Occurrence
from peftlang.passes.rewriting import SLOT, ActivePlan, Emission, Rewriting, SlotReads
from peftlang.passes.rooms import fill
from peftlang.passes.steps import Application, Step, applications, outermost_first
from peftlang.passes.streams import Streams, view_of
from peftlang.passes.views import SiteView


def insert(work: Rewriting) -> None:
    """Insert every active method at every occurrence of its sites, in all graphs."""
    by_site = applications(work.active)
    orders = [list(graph.gm.graph.nodes) for graph in work.graphs]
    streams = Streams(work, [SlotReads(graph, work) for graph in work.graphs])
    for index, (graph, located) in enumerate(zip(work.graphs, work.located, strict=True)):
        write = _Writer(work, streams, index)
        for step in outermost_first(located, by_site, orders[index]):
            write(step)
        change_experts(graph, by_site, streams.reads[index], work)
        _replace_trained(graph, work.active, streams.reads[index])
    streams.finish()
    for graph in work.graphs:
        fill(graph.gm.graph)


def _replace_trained(graph: CapturedGraph, active: Iterable[ActivePlan], reads: SlotReads) -> None:
    """Where an adapter trains base parameters, the graph reads the adapter's copies of them."""
    groups = {n: f"{a.name}.{TRAINED}.{n}" for a in active for n in a.plan.train}
    for node, name in graph.facts.parameters.items():
        if name in groups and node.users:
            copy = reads(groups[name])
            own = node.meta.get("example_value")
            if isinstance(own, torch.Tensor) and own.dtype != reads.value(groups[name]).dtype:
                with Emission(copy) as emission:
                    cast: Any = emission.proxy(copy).to(own.dtype)
                copy = cast.node
            node.replace_all_uses_with(copy)


@dataclass(frozen=True, eq=False)
class _Held:
    """An operand as an application of that rank finds it, which a step still to come says."""

    rank: int
    name: str
    node: Node
    occurrence: Occurrence


class _Writer:
    """Writes applications into one graph.

    Attributes:
        work: The rewriting under way.
        streams: Values under way between sites.
        graph: Which of the graphs.
    """

    def __init__(self, work: Rewriting, streams: Streams, graph: int) -> None:
        self.work, self.streams, self.graph = work, streams, graph
        self.reads = streams.reads[graph]
        self._written: dict[Node, set[Node]] = {}
        self._reading = _reading(work.located[graph])
        self._before: dict[Node, Node] = {}
        self._all: set[Node] = set()
        self._held: dict[Node, list[_Held]] = {}

    def __call__(self, step: Step) -> None:
        for application, _ in step.changes:
            for name in _tensor_names(application):
                self.reads(name)
        written = self._written.setdefault(step.occurrence.call, set())
        flows = [Flows(self.streams, self.graph, a, step.occurrence) for a in step.applications]
        arrived = {node for flow in flows for node in flow.arrived.values()}
        earlier = self._all if step.entering else written.union(*self._of_readers(step))
        with Emission(self._anchor(step, arrived), earlier=earlier) as emission:
            view = view_of(step.occurrence, emission, self.reads)
            if not step.after:
                view.known = "q" if step.occurrence.product is not None else "x"
            found: list[tuple[Node, Node]] = []
            for flow in flows:
                found += self._as_found(step, view, until=flow.application.rank)
                self._apply(flow, view, step)
            found += self._as_found(step, view)
            _commit(view, step)
        for held, value in found:
            held.args = (value,)
        written |= emission.made
        self._all |= emission.made

    def _apply(self, flow: Flows, view: SiteView, step: Step) -> None:
        application = flow.application
        chosen = [c for a, c in step.changes if a is application and c is not None]
        self._hold(application, view, step)
        interpret = _interpreter(application, view, self.reads, self.work, flow)
        values = [_cast(interpret(c.value), view, c, application) for c in chosen]
        if step.after and application.penalised and self.work.training(application.site.path):
            flow.penalise(interpret, view)
        for composition, value in zip(chosen, values, strict=True):
            if composition.target in application.carried:
                flow.leave(composition, value, interpret)
                continue
            view.set(composition.target, value)
            if step.after and composition.target == "x":
                view.recompute()

    def _of_readers(self, step: Step) -> Iterator[set[Node]]:
        """What is written for the operations that alone read the site's ``h``.

        What reads a changed `ffn.act` is the projection, and what methods say at it.
        """
        for reader in step.occurrence.readers.get("h", ()) if "h" in step.targets else ():
            yield from (self._written.get(call, set()) for call in self._reading[reader])

    def _hold(self, application: Application, view: SiteView, step: Step) -> None:
        """Read the operands as the application finds them: a step still to come says what that is.

        All clauses of a method read the old values, and the methods before it have acted.
        """
        for name in sorted(step.moving(step.occurrence) & _names_read(application, step)):
            node = self.streams.hold(self.graph, view.emission, step.occurrence.values[name])
            held = replace(step.occurrence, values={**step.occurrence.values, name: node})
            view.set(name, view_of(held, view.emission, self.reads).read(name))
            entry = _Held(application.rank, name, node, step.occurrence)
            self._held.setdefault(step.occurrence.call, []).append(entry)

    def _as_found(
        self, step: Step, view: SiteView, *, until: float = math.inf
    ) -> list[tuple[Node, Node]]:
        """What is held for applications up to a rank, each with the value that it stands for.

        What stands before all of the step is left to the steps still to come, if one of these
        changes it.
        """
        first = step.applications[0].rank
        held = self._held.get(step.occurrence.call, [])
        ready = [
            e
            for e in held
            if e.name in step.operands(e.occurrence)
            and e.rank <= until
            and (e.rank > first or e.name not in step.moving(e.occurrence))
        ]
        self._held[step.occurrence.call] = [e for e in held if e not in ready]
        return [(e.node, view.current(e.name)) for e in ready]

    def _anchor(self, step: Step, arrived: set[Node]) -> Node:
        """The node after which a step is written: as late as its target allows.

        What is written later for the same target comes before what was written earlier, which
        reads it.
        """
        call = step.occurrence.call
        if step.after or step.entering or step.occurrence.product is not None:
            return _latest(call.graph, _needed(step) | arrived)
        return self._before.setdefault(call, call.prev)


def _reading(located: Located) -> dict[Node, set[Node]]:
    """For each node that takes an operand on behalf of sites: the operations of these."""
    found: dict[Node, set[Node]] = defaultdict(set)
    for occurrence in chain.from_iterable(located.found.values()):
        for reader in occurrence.readers.get("x", ()):
            found[reader].add(occurrence.call)
    return found


def _commit(view: SiteView, step: Step) -> None:
    targets = {"h"} & step.results if step.after else step.targets
    extra = sum(added_keys(a, c) for a, c in step.changes if c is not None and c.target == "k")
    if extra and isinstance(view, AttentionView):
        lengthen(view, extra)
        targets -= {"k", "v"}
    for target in sorted(targets):
        view.commit(target)


def added_keys(application: Application, composition: Composition) -> int:
    """How many learned keys a composition of ``k`` or ``v`` puts before the model's own.

    Raises:
        PeftError: S411, they are put elsewhere than in front.
    """
    value = composition.value
    if not value.type.dims:
        return 0
    extra = value.type.dims[0] - Dim.of("keys")
    count = extra.evaluate(application.sizes)
    if count and not _ends_with_keys(value):
        raise PeftError(
            f"`{composition.target}` of method `{application.method.name}` grows elsewhere than "
            "in front, so masks would not line up",
            code="S411",
            help=f"write `{composition.target} = concat(..., {composition.target})`",
        )
    return count


def _ends_with_keys(value: Expr) -> bool:
    is_concat = isinstance(value, Apply) and value.op == "concat"
    return is_concat and "keys" in value.args[-1].type.dims[0].symbols  # type: ignore[union-attr]


def _names_read(application: Application, step: Step) -> set[str]:
    """Names in scope that the expressions of a step read, as the site has them."""
    method = application.method
    values = [c.value for a, c in step.changes if a is application and c is not None]
    found = names(*values, *method.penalties, *(c.init for c in method.carries))
    return {"h" if name == "x" and method.insertion == "sequential" else name for name in found}


def _needed(step: Step) -> set[Node]:
    values, product = step.occurrence.values, step.occurrence.product
    read = step.targets.union(*(_names_read(a, step) for a in step.applications))
    nodes = {values[name] for name in read if name in values}
    if product is not None:
        parts = (product.mask, product.softmax and product.softmax.all_input_nodes[0])
        nodes |= {part for part in parts if isinstance(part, Node)}
    return nodes


def _latest(graph: Graph, nodes: set[Node]) -> Node:
    def counts(node: Node) -> bool:
        return node in nodes or node.op == "placeholder" or SLOT in node.meta

    found: Node = next(node for node in reversed(graph.nodes) if counts(node))
    return found


def _tensor_names(application: Application) -> list[str]:
    defined = [t.name for t in application.method.tensors]
    defined += [i.name for i in application.method.inputs]
    return [slot for name in defined if (slot := application.slot(name)) is not None]


def _interpreter(
    application: Application, view: SiteView, reads: SlotReads, work: Rewriting, flow: Flows
) -> Interpreter:
    wanted = _working_dtype(application, view, reads)

    def lookup(name: str) -> Any:
        slot = application.slot(name)
        if slot is not None:
            value = view.emission.proxy(reads(slot))
            held = reads.value(slot).dtype
            return value.to(wanted) if held.is_floating_point and held != wanted else value
        if flow.has(name):
            return flow.value(name, view, interpret)
        if name == "x" and application.method.insertion == "sequential":
            name = "h"
        value = view.get(name)
        if name in {"W", "b"} and view.dtype(name) not in {None, wanted}:
            return value.to(wanted)
        return value

    interpret = Interpreter(
        torch,
        application.sizes,
        lookup,
        training=work.training(application.site.path),
        half=wanted in {torch.float16, torch.bfloat16},
        site=view,
        real=lambda dim: flow.real(dim, view),
    )
    return interpret


def _working_dtype(application: Application, view: SiteView, reads: SlotReads) -> torch.dtype:
    """Type that tensors are brought to: the hidden state's, or for weights the widest."""
    targets = application.method.targets
    own = view.dtype(targets[0] if targets else "h") or torch.float32
    if not set(targets) & {"W", "b"}:
        return own
    held = (reads.value(s).dtype for s in _tensor_names(application))
    for dtype in held:
        if dtype.is_floating_point:
            own = torch.promote_types(own, dtype)
    return own


def _cast(value: Any, view: SiteView, composition: Composition, application: Application) -> Any:
    """``value`` in the target's own number type, where anything could have changed it."""
    own = view.dtype("h" if composition.target in application.carried else composition.target)
    if own is None:
        return value
    applied = [n.op for n in postorder(composition.value) if isinstance(n, Apply)]
    precise = any(BUILTINS[op].single_precision for op in applied)
    read = {n.name for n in postorder(composition.value) if isinstance(n, Ref)}
    dtypes = {view.dtype(n) for n in read if n in view.occurrence.values}
    mixed = any(d is not None and d.is_floating_point and d != own for d in dtypes)
    weights = composition.target in {"W", "b"}
    if (precise and own in {torch.float16, torch.bfloat16}) or mixed or weights:
        return value.to(own)
    return value
