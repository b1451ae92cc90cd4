"""insert: write each method's expressions into the graph as torch operations.

Requires: sites located in every graph. Ensures: each occurrence of a site computes what the
active methods say, adapter values are read from attributes that carry a slot name, and a graph
without sites is unchanged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph
from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref, names, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition, Method, fixed
from peftlang.ir.plan import TRAINED, Placement, Site
from peftlang.ir.sizes import site_sizes
from peftlang.passes.attention_view import AttentionView
from peftlang.passes.flows import Flows, reads_activations
from peftlang.passes.lengthen import lengthen
from peftlang.passes.occurrence import Located, Occurrence
from peftlang.passes.rewriting import SLOT, ActivePlan, Emission, Rewriting, SlotReads
from peftlang.passes.streams import Streams, view_of
from peftlang.passes.views import SiteView

NESTING = ("block", "ffn", "cross_attn", "attn")
"""Positions whose ``h`` may be one node: the outer acts after the inner."""


@dataclass(frozen=True, eq=False)
class Application:
    """One method at one site: whose tensors, which expressions, at which sizes."""

    adapter: str
    placement: Placement
    method: Method
    site: Site

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of every dimension: the site's, and the integer hyper-parameters."""
        return site_sizes(
            self.method, self.placement.args, self.site, self.placement.tapped_sizes(self.site.id)
        )

    @property
    def carried(self) -> set[str]:
        """Names of the states that the method carries."""
        return {carry.name for carry in self.method.carries}

    @property
    def penalised(self) -> bool:
        """Whether a penalty reads what runs at the site."""
        return any(map(reads_activations, self.method.penalties))

    def slot(self, tensor: str) -> str | None:
        """Slot that holds the method's tensor or input of that name."""
        group = self.placement.tensors.get(self.site.id, {}).get(tensor)
        if group is not None:
            return f"{self.adapter}.{group}"
        if any(entry.name == tensor for entry in self.method.inputs):
            return f"input.{tensor}"
        return None


def insert(work: Rewriting) -> None:
    """Insert every active method at every occurrence of its sites, in all graphs."""
    by_site = applications(work.active)
    orders = [list(graph.gm.graph.nodes) for graph in work.graphs]
    streams = Streams(work, [SlotReads(graph, work) for graph in work.graphs])
    for index, (graph, located) in enumerate(zip(work.graphs, work.located, strict=True)):
        write = _Writer(work, streams, index)
        for step in _outermost_first(located, by_site, orders[index]):
            write(step)
        _replace_trained(graph, work.active, streams.reads[index])
    streams.finish()


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


def applications(active: Iterable[ActivePlan]) -> dict[str, list[Application]]:
    """What acts at each site, by the site's id, in the order in which it acts."""
    found: dict[str, list[Application]] = {}
    for adapter in active:
        for placement in adapter.plan.placements:
            use = adapter.plan.uses[placement.label]
            method = fixed(use.method, use.args)
            for site in placement.sites:
                found.setdefault(site, []).append(
                    Application(adapter.name, placement, method, adapter.plan.sites[site])
                )
    return found


Change = tuple[Application, Composition | None]


@dataclass(frozen=True)
class Step:
    """What is written at one point for one occurrence.

    Attributes:
        occurrence: The place.
        changes: In order of placement; without a composition for what only adds a penalty.
        after: Whether it follows the site's computation, and changes ``h``; else it comes
            before, and changes what the site reads.
    """

    occurrence: Occurrence
    changes: tuple[Change, ...]
    after: bool

    @property
    def applications(self) -> list[Application]:
        """What acts, once for each change."""
        return [application for application, _ in self.changes]

    @property
    def targets(self) -> set[str]:
        own = {name for a, _ in self.changes for name in a.carried}
        return {c.target for _, c in self.changes if c is not None} - own

    @property
    def results(self) -> set[str]:
        """What is made anew: a change of ``x`` after the site is one of ``h``."""
        return {"h" if target == "x" and self.after else target for target in self.targets}

    @property
    def entering(self) -> bool:
        """Whether it changes what a whole layer reads."""
        return not self.after and self.occurrence.site.role == "block"


def _outermost_first(
    located: Located, by_site: dict[str, list[Application]], order: list[Node]
) -> list[Step]:
    """Steps from the end of the graph to its beginning.

    What a site reads lies before what it changes. Going backwards, everything that a site reads
    is still as captured when its operations are written, and follows when it changes later.
    """
    position = {node: index for index, node in enumerate(order)}
    steps = [
        step
        for site, occurrences in located.found.items()
        for occurrence in occurrences
        for step in _steps(by_site.get(site, ()), occurrence)
    ]

    def key(step: Step) -> tuple[float, int]:
        occurrence, role = step.occurrence, step.occurrence.site.role
        nesting = NESTING.index(role) if role in NESTING else len(NESTING)
        if step.entering:
            # After all that stands inside the layer, before the one that gives it its input.
            return -position[occurrence.values["x"]] - 0.25, nesting
        last = position[occurrence.values["h"] if step.after else occurrence.call]
        return -last if step.after else 0.5 - last, nesting

    return sorted(steps, key=key)


def _steps(applications: Iterable[Application], occurrence: Occurrence) -> Iterator[Step]:
    """Changes of ``h`` apart from changes of what the site reads; each in order of placement.

    A role that is a slice of a fused projection shares its ``x`` with the other slices, so a
    change of ``x`` is there a change of the slice of ``h``.
    """
    sliced = occurrence.site.rows is not None and not occurrence.sliced
    late = {"h", "x"} if sliced else {"h"}
    changes: dict[bool, list[Change]] = {True: [], False: []}
    for application in applications:
        own = [(c.target in late | application.carried, c) for c in application.method.compositions]
        for after, composition in own:
            changes[after].append((application, composition))
        if application.penalised and not any(after for after, _ in own):
            changes[True].append((application, None))
    for after in (True, False):
        chosen = tuple(changes[after])
        if chosen:
            yield Step(occurrence, chosen, after)


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
        self._before: dict[Node, Node] = {}
        self._all: set[Node] = set()

    def __call__(self, step: Step) -> None:
        for application, _ in step.changes:
            for name in _tensor_names(application):
                self.reads(name)
        written = self._written.setdefault(step.occurrence.call, set())
        flows = [
            Flows(self.streams, self.graph, a, step.occurrence)
            for a in dict.fromkeys(step.applications)
        ]
        arrived = {node for flow in flows for node in flow.arrived.values()}
        earlier = self._all if step.entering else written
        with Emission(self._anchor(step, arrived), earlier=earlier) as emission:
            view = view_of(step.occurrence, emission, self.reads)
            if not step.after:
                view.known = "q" if step.occurrence.product is not None else "x"
            for flow in flows:
                self._apply(flow, view, step)
            _commit(view, step)
        written |= emission.made
        self._all |= emission.made

    def _apply(self, flow: Flows, view: SiteView, step: Step) -> None:
        application = flow.application
        chosen = [c for a, c in step.changes if a is application and c is not None]
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

    def _anchor(self, step: Step, arrived: set[Node]) -> Node:
        """The node after which a step is written: as late as its target allows.

        What is written later for the same target comes before what was written earlier, which
        reads it.
        """
        call = step.occurrence.call
        if step.after or step.entering or step.occurrence.product is not None:
            return _latest(call.graph, _needed(step) | arrived)
        return self._before.setdefault(call, call.prev)


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


def _needed(step: Step) -> set[Node]:
    values, product = step.occurrence.values, step.occurrence.product
    read: set[str] = set(step.targets)
    for application, composition in step.changes:
        found = names(*([composition.value] if composition else application.method.penalties))
        found |= names(*application.method.penalties, *(c.init for c in application.method.carries))
        sequential = application.method.insertion == "sequential"
        read |= {"h" if name == "x" and sequential else name for name in found}
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
