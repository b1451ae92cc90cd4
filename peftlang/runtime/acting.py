"""What a set of adapters does where: for each module of the model, the programs that run there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph, ModuleCall
from peftlang.capture.facts import FUNCTION, VALUE
from peftlang.emit.applications import Application, applications
from peftlang.emit.rewriting import Rewriting
from peftlang.emit.slots import SLOT, Slot
from peftlang.emit.streams import chain_of
from peftlang.emit.tokens import filled_slot, reads_places
from peftlang.emit.attention_view import FOLDED, is_folded
from peftlang.graph.attention import fused
from peftlang.graph.flow import shape_of
from peftlang.graph.structure import is_inside
from peftlang.graph.written import WRITTEN_OUT
from peftlang.ir.method import InputDef
from peftlang.ir.plan import TRAINED, ActivePlan
from peftlang.ir.reach import mixing
from peftlang.passes.check import check_reserved
from peftlang.passes.decompose import write_out
from peftlang.passes.regions import region_of
from peftlang.regions.borders import Border, Borders
from peftlang.regions.code import compiled
from peftlang.regions.cut import cut
from peftlang.regions.graphs import RegionGraph, at_border, inside, operation
from peftlang.regions.program import Program
from peftlang.prompts.usage import asked
from peftlang.regions.usage import Used, joined, usage_of
from peftlang.runtime.whole import Whole
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Located, Occurrence
from peftlang.sites.survey import Survey

Rewrite = Callable[[Rewriting], None]
"""The graph passes, in order."""


@dataclass(frozen=True)
class Replaced:
    """One operation with what acts there written into it.

    Attributes:
        run: Takes the slots' values, then the operation's tensors; returns the operation's result,
            and behind it what is handed on.
        slots: What it takes from outside.
        exported: What it hands on.
        constants: Values of slots that are its own.
    """

    run: Callable[..., Any]
    slots: tuple[Slot, ...]
    exported: tuple[Slot, ...]
    constants: Mapping[Slot, Any] = field(default_factory=dict)


@dataclass(eq=False)
class AtOperation:
    """Sites that lie within one operation of a module.

    Attributes:
        path: The module's.
        name: The operation's.
        number: How often the module asked torch for it before.
        function: What torch is asked for.
        recorded: Its operands when the model was recorded: nodes and plain values.
        sites: The sites.
        far: What they read of other modules, by site and name.
    """

    path: str
    name: str
    number: int
    function: Any = None
    recorded: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    sites: list[Used] = field(default_factory=list)
    far: dict[str, dict[str, Border]] = field(default_factory=dict)
    replaced: dict[Any, Replaced] = field(default_factory=dict)

    @property
    def folded(self) -> tuple[int, int] | None:
        """How many heads of keys there are, and of queries for each, where they differ."""
        dims = self.sites[0].occurrence.site.dims
        heads, own = dims.get("heads", 0), dims.get("kv_heads", 0)
        return (own, heads // own) if own and own != heads else None


@dataclass(eq=False)
class Part:
    """What runs at one module.

    Attributes:
        path: The module.
        sites: What is done at the module's border, or between its operations.
        within: Whether it is between operations.
        operations: What is done at single operations of it.
        recorded: What others read of it in the same call.
        only_in: What is known of the call only while another module runs: an embedding that two
            towers share is that of soft tokens in one of them.
        starting: Carried states that start here, where no earlier site has left them.
        far: What it reads of other modules.
    """

    path: str
    sites: list[Used] = field(default_factory=list)
    within: bool = False
    operations: dict[tuple[str, int], AtOperation] = field(default_factory=dict)
    recorded: list[Border] = field(default_factory=list)
    only_in: dict[str, str] = field(default_factory=dict)
    starting: tuple[str, ...] = ()
    programs: dict[str, Program] = field(default_factory=dict)


_NUMBERS = count()
_KNOWN: "WeakValueDictionary[int, Acting]" = WeakValueDictionary()


def prepared_program(number: int, path: str, training: bool, given: str) -> Program:
    """A program, made while TorchDynamo traces: to what is traced it is a constant."""
    acting = _KNOWN[number]
    part = acting.parts[path]
    key = f"{training}|{given}"
    if key not in part.programs:
        part.programs[key] = acting._made(part, training, given)
    return part.programs[key]


def prepared_operation(number: int, path: str, name: str, place: int, key: Any) -> "Replaced":
    """The code for an operation, likewise."""
    acting = _KNOWN[number]
    at = acting.parts[path].operations[name, place]
    if key not in at.replaced:
        at.replaced[key] = acting.replaced(at, *key)
    return at.replaced[key]


# What `torch.compiler.assume_constant_result` sets, without the import of all of TorchDynamo: it calls
# these functions while it traces, instead of tracing them, and takes what they return as it is.
prepared_program._dynamo_marked_constant = True  # type: ignore[attr-defined]
prepared_operation._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Acting:
    """A set of adapters that act together on one model.

    Attributes:
        plans: The adapters, in order.
        parts: What runs where, by the module's path.
        asks: Whether something has to be done where a call begins or ends.
        inputs: What the caller supplies, by name, with the sizes of hyper-parameters.
        whole: The model as one graph, where that is how it runs.
        anchored: For each part, the modules whose weights are used where it has to run.
        trained: The copies that are trained in the place of parameters, by module and name.
    """

    def __init__(
        self, plans: Sequence[ActivePlan], survey: Survey, rewrite: Rewrite,
        extra: Iterable[Used] = (),
    ) -> None:  # fmt: skip
        check_reserved(plans)
        self.number = next(_NUMBERS)
        _KNOWN[self.number] = self
        self.plans, self._survey, self._rewrite = tuple(plans), survey, rewrite
        self.applications = applications(plans)
        self.inputs = _inputs(self.plans)
        self.asks = self._asks()
        self.parts: dict[str, Part] = {}
        self.anchored: dict[str, set[str]] = {}
        self.trained = self._trained()
        self.whole = Whole() if any(plan.plan.is_whole for plan in self.plans) else None
        if self.whole is not None:
            self._part("")
            return
        for used in joined((*self._used(), *extra)):
            self._place(used)
        far = [border for part in self.parts.values() for border in self._far(part)]
        if self._looks_at_patches():
            far += [border for border, _ in survey.grids]
        for border in dict.fromkeys(far):
            self._part(border.path).recorded.append(border)
        for part in self.parts.values():
            part.starting = self._starting(part)

    # Which modules

    def _used(self) -> Iterator[Used]:
        sites = {k: s for plan in self.plans for k, s in plan.plan.concerned.items()}
        located = self._survey.located(s for s in sites.values() if s.role != "prompt")
        tapped: dict[str, set[str]] = {}
        for plan in self.plans:
            for placement in plan.plan.placements:
                for taps in placement.taps.values():
                    for tap in taps.values():
                        tapped.setdefault(tap.site, set()).add(tap.value)
        for name in sites:
            acting, read = self.applications.get(name, []), tapped.get(name, set())
            found = located.found.get(name, ())
            if found and (acting or read):
                yield usage_of(found[0], acting, read)

    def _asks(self) -> bool:
        methods = [use.method for plan in self.plans for use in plan.plan.uses.values()]
        sites = [site for plan in self.plans for site in plan.plan.sites.values()]
        tapped = any(list(p.plan.tapped_sequences(q)) for p in self.plans for q in p.plan.placements)
        return (
            bool(self.inputs) or tapped or any(site.role == "prompt" for site in sites)
            or any(method.penalties or reads_places(method) for method in methods)
        )  # fmt: skip

    def _trained(self) -> dict[tuple[str, str], Slot]:
        found: dict[tuple[str, str], Slot] = {}
        for plan in self.plans:
            for name in plan.plan.train:
                slot = Slot("tensor", f"{TRAINED}.{name}", plan.name)
                for path, leaf in self._survey.graph.facts.names.holders(name):
                    self._part(path)
                    found[path, leaf] = slot
        return found

    def _place(self, used: Used) -> None:
        region = region_of(self._survey.graph, used.occurrence, used.reads, used.writes)
        part = self._part(region.path)
        if region.kind == "operation":
            key = region.function, region.number
            at = part.operations.setdefault(key, AtOperation(part.path, *key))
            at.function, at.recorded = _asked(used.occurrence.call)
            at.sites.append(used)
            at.far[used.occurrence.site.id] = self._shown(used)
        else:
            part.sites.append(used)
            part.within |= region.kind == "inside"
        names = self._survey.graph.facts.names
        site = used.occurrence.site
        if site.role == "prompt" and site.layer is None and site.weight is not None:
            self._part(site.path)
            part.only_in[filled_slot(site.sequence).key] = site.path
        for name in filter(None, (*site.anchors, site.weight)):
            owners = [path for path, _ in names.holders(name)]
            inner = [path for path in owners if is_inside(path, region.path)]
            self.anchored.setdefault(region.path, set()).update(inner or owners[:1])

    def _part(self, path: str) -> Part:
        return self.parts.setdefault(path, Part(path))

    def _looks_at_patches(self) -> bool:
        methods = (use.method for plan in self.plans for use in plan.plan.uses.values())
        return any(call.op == "conv2" for method in methods for call in mixing(method))

    def _starting(self, part: Part) -> tuple[str, ...]:
        found = []
        for used in part.sites:
            for application in self.applications.get(used.occurrence.site.id, ()):
                for name in sorted(application.carried):
                    chain = chain_of(application, self._plan(application.adapter), name)
                    if chain.sites[0] == application.site.id:
                        found.append(chain.slot.key)
        return tuple(found)

    def _plan(self, adapter: str) -> Any:
        return next(plan.plan for plan in self.plans if plan.name == adapter)

    def _far(self, part: Part) -> list[Border]:
        found = list(self._graph(part).far) if part.sites else []
        for at in part.operations.values():
            found += [border for names in at.far.values() for border in names.values()]
        return found

    def _shown(self, used: Used) -> dict[str, Border]:
        """What a site in an operation reads that is no operand of it, and where that shows."""
        borders, occurrence = Borders.of(self._survey.graph), used.occurrence
        if occurrence.product is None or occurrence.product.kind != "sdpa":
            return {}
        before = borders.order[occurrence.call]
        found = {n: borders.shown(occurrence.values[n], before) for n in used.names - set("qkvh")}
        return {name: border for name, border in found.items() if border is not None}

    def path_of(self, site: str) -> str:
        """The module at which what acts at a site is done."""
        found = (
            path for path, part in self.parts.items()
            if any(used.occurrence.site.id == site for used in part.sites)
        )  # fmt: skip
        return next(found)

    # Code

    def program(self, part: Part, training: bool, given: str) -> Program:
        """What runs at a module's border, and between its operations.

        Args:
            part: The module.
            training: Whether it is in training mode.
            given: What is known of the call: names of slots, with ``|`` between.
        """
        if torch.compiler.is_compiling():
            return prepared_program(self.number, part.path, training, given)
        key = f"{training}|{given}"
        found = part.programs.get(key)
        if found is None:
            found = part.programs[key] = self._made(part, training, given)
        return found

    def _made(self, part: Part, training: bool, given: str) -> Program:
        if not part.sites:
            return Program()
        region = self._graph(part)
        work = self._rewriting(region.graph, region.occurrences, training, given)
        self._rewrite(work)
        return cut(region, work) or Program()

    def _graph(self, part: Part) -> RegionGraph:
        make = inside if part.within else at_border
        sites = [(used.occurrence, used.names) for used in part.sites]
        return make(self._survey.graph, self._call(part.path), sites)

    def _call(self, path: str) -> ModuleCall:
        return next(call for call in self._survey.graph.calls if call.path == path)

    def _rewriting(
        self, graph: Any, occurrences: Iterable[Occurrence], training: bool, given: str
    ) -> Rewriting:
        located = Located()
        for one in occurrences:
            located.found.setdefault(one.site.id, []).append(one)
        facts = frozenset(given.split("|")) - {""}
        grids = tuple((Slot("grid", str(b)), stages) for b, stages in self._survey.grids)
        return Rewriting(
            graph, located, self.plans, self.applications, training, facts, grids
        )

    def operation(
        self, at: AtOperation, described: Any, training: bool, given: str, operands: Any
    ) -> Replaced:
        """As ``replaced``, once for each description."""
        key = described, training, given
        if torch.compiler.is_compiling():
            return prepared_operation(self.number, at.path, at.name, at.number, key)
        if key not in at.replaced:
            at.replaced[key] = self.replaced(at, described, training, given, operands)
        return at.replaced[key]

    def replaced(
        self, at: AtOperation, described: Any, training: bool, given: str, operands: Any = None
    ) -> Replaced:
        """An operation as it is asked for now, with what acts there written into it.

        Args:
            at: The operation.
            described: Its operands, as its code depends on them.
            training: Whether the module is in training mode.
            given: What is known of the call: names of slots, with ``|`` between.
            operands: Operands and options themselves; made up from the description if not given.
        """
        args, kwargs = operands or _made_up(at, described)
        facts = self._survey.graph.facts
        recorded = {**dict(enumerate(at.recorded[0])), **at.recorded[1]}
        weights = {
            key: name for key, node in recorded.items()
            if isinstance(node, Node) and (name := facts.parameter_of(node)) is not None
        }  # fmt: skip
        captured = operation(at.function, args, kwargs, weights)
        known = self._within(captured, at)
        work = self._rewriting(captured.graph, known, training, given)
        if not known:
            work.captured = captured
            work.sought = tuple(used.occurrence.site for used in at.sites)
        self._rewrite(work)
        own = [n for n in work.graph.find_nodes(op="placeholder") if SLOT not in n.meta]
        return _whole(work, own)

    def as_graph(self, captured: CapturedGraph, training: bool, given: str) -> Replaced:
        """A recorded call of the model with everything that acts written into it.

        Args:
            captured: The call.
            training: Whether the model is in training mode.
            given: What is known of the call: names of slots, with ``|`` between.
        """
        write_out(captured.graph, captured.calls)
        sites = {k: s for plan in self.plans for k, s in plan.plan.concerned.items()}
        located = locate(captured, [s for s in sites.values() if s.role != "prompt"])
        here = Survey(captured, self._survey.sites)
        extra = [used.occurrence for used in asked(here, self.plans)]
        known = [one for found in located.found.values() for one in found]
        for kind, names in (("weight", captured.facts.parameters), ("buffer", captured.facts.buffers)):
            for node, name in names.items():
                node.meta[SLOT] = Slot(kind, name)
        constants = {Slot("constant", n.name): v for n, v in captured.constants.items()}
        for node in captured.constants:
            node.replace_all_uses_with(_constant(captured.graph, node))
            captured.graph.erase_node(node)
        work = self._rewriting(captured.graph, [*known, *extra], training, given)
        self._rewrite(work)
        return replace(_whole(work, captured.inputs), constants=constants)

    def _within(self, captured: CapturedGraph, at: AtOperation) -> list[Occurrence]:
        """The sites of an attention product; none where sites have to be found."""
        call = next(n for n in captured.graph.nodes if n.op == "call_function")
        product = fused(call) if at.name == "scaled_dot_product_attention" else None
        if product is None:
            return []
        made = []
        for used in at.sites:
            layout = dict(product.layout)
            if is_folded(used.occurrence.site, call):
                layout |= {"q": FOLDED, "h": FOLDED}
            values = {**product.parts, "h": call}
            for name, border in at.far[used.occurrence.site.id].items():
                values[name] = self._placeholder(captured.graph, border, used, name)
            made.append(
                replace(
                    used.occurrence, call=call, values=values, readers=dict(product.readers),
                    layout=layout, product=product.product,
                )  # fmt: skip
            )
        return made


def _inputs(plans: Iterable[ActivePlan]) -> dict[str, tuple[InputDef, dict[str, int]]]:
    found: dict[str, tuple[InputDef, dict[str, int]]] = {}
    for plan in plans:
        for use in plan.plan.uses.values():
            sizes = {k: v for k, v in use.args.items() if isinstance(v, int)}
            found.update({entry.name: (entry, sizes) for entry in use.method.inputs})
    return found


def _constant(graph: Graph, node: Node) -> Node:
    with graph.inserting_before(next(iter(graph.nodes))):
        made = graph.placeholder(node.name)
    made.meta |= {**node.meta, SLOT: Slot("constant", node.name)}
    return made


def _whole(work: Rewriting, inputs: Sequence[Node]) -> Replaced:
    """A rewritten graph as one piece of code."""
    graph, exported = work.graph, tuple(work.exported)
    result = graph.output_node().args[0]
    graph.output_node().args = ((result, *(work.exported[slot] for slot in exported)),)
    slots = [n for n in graph.find_nodes(op="placeholder") if SLOT in n.meta]
    for node in (*reversed(inputs), *reversed(slots)):
        next(iter(graph.nodes)).prepend(node)
    return Replaced(compiled(graph), tuple(n.meta[SLOT] for n in slots), exported)


def _asked(call: Node) -> tuple[Any, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What torch was asked for, of which a node is, or is a part."""
    origin = call.meta.get(WRITTEN_OUT)
    if origin is not None:
        return origin.function, (origin.args, origin.kwargs)
    return call.meta[FUNCTION], (call.args, dict(call.kwargs))


def _made_up(at: AtOperation, described: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Operands of the kinds described, with sizes as when the model was recorded."""
    args, names, options = described
    known = {**dict(enumerate(at.recorded[0])), **at.recorded[1]}

    def one(key: int | str, kind: Any) -> Any:
        if not (isinstance(kind, tuple) and kind[:1] == ("tensor",)):
            return kind
        _, floating, dims, heads, alike = kind
        node = known.get(key)
        sizes = list(shape_of(node)) if isinstance(node, Node) else [1] * dims
        sizes = sizes if len(sizes) == dims else [1] * dims
        if dims == 4 and isinstance(node, Node):
            sizes[1] = heads
            sizes[2] = at.folded[1] if alike and at.folded else sizes[2]
        return torch.empty(sizes, dtype=torch.float32 if floating else torch.bool, device="meta")

    operands = tuple(one(place, kind) for place, kind in enumerate(args))
    return operands, {name: one(name, kind) for name, kind in zip(names, options, strict=True)}
