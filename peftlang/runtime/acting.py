"""What a set of adapters does where: for each module of the model, the programs that run there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from torch.fx import Node

from peftlang.capture import ModuleCall
from peftlang.capture.facts import FUNCTION
from peftlang.dataflow.borders import Border, Borders
from peftlang.dataflow.structure import is_inside
from peftlang.dataflow.written import WRITTEN_OUT
from peftlang.emit.applications import applications
from peftlang.emit.rewriting import Rewriting
from peftlang.emit.slots import Slot
from peftlang.emit.streams import chain_of
from peftlang.emit.tokens import filled_slot, reads_places
from peftlang.ir.method import InputDef
from peftlang.ir.plan import TRAINED, ActivePlan, Region
from peftlang.ir.reach import mixing
from peftlang.prompts.reserved import check_reserved
from peftlang.regions.graphs import RegionGraph, at_border, inside
from peftlang.regions.smallest import regions_of
from peftlang.regions.usage import Used, joined, usage_of
from peftlang.runtime.parts import Operation, Part
from peftlang.runtime.whole import Whole
from peftlang.sites.occurrence import Occurrence
from peftlang.sites.survey import Survey

_NUMBERS = count()
_KNOWN: WeakValueDictionary[int, "Acting"] = WeakValueDictionary()

Rewrite = Callable[[Rewriting], None]
"""The graph passes, in order."""


class Acting:
    """A set of adapters that act together on one model.

    Attributes:
        number: Tells it apart, for as long as the process lives.
        plans: The adapters, in order.
        survey: Where the model's sites run.
        rewrite: The graph passes.
        parts: What runs where, by the module's path.
        asks: Whether something has to be done where a call begins or ends.
        inputs: What the caller supplies, by name, with the sizes of hyper-parameters.
        whole: The model as one graph, where that is how it runs.
        anchored: For each part, the modules whose weights are used where it has to run.
        trained: The copies that are trained in the place of parameters, by module and name.
    """

    def __init__(
        self,
        plans: Sequence[ActivePlan],
        survey: Survey,
        rewrite: Rewrite,
        extra: Iterable[Used] = (),
    ) -> None:
        check_reserved(plans)
        self.number = next(_NUMBERS)
        _KNOWN[self.number] = self
        self.plans, self.survey, self.rewrite = tuple(plans), survey, rewrite
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
        located = self.survey.located(s for s in sites.values() if s.role != "prompt")
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
                yield usage_of(found, acting, read)

    def _asks(self) -> bool:
        methods = [use.method for plan in self.plans for use in plan.plan.uses.values()]
        sites = [site for plan in self.plans for site in plan.plan.sites.values()]
        tapped = any(
            list(p.plan.tapped_sequences(q)) for p in self.plans for q in p.plan.placements
        )
        return (
            bool(self.inputs)
            or tapped
            or any(site.role == "prompt" for site in sites)
            or any(method.penalties or reads_places(method) for method in methods)
        )

    def _trained(self) -> dict[tuple[str, str], Slot]:
        found: dict[tuple[str, str], Slot] = {}
        for plan in self.plans:
            for name in plan.plan.train:
                slot = Slot("tensor", f"{TRAINED}.{name}", plan.name)
                for path, leaf in self.survey.graph.facts.names.holders(name):
                    self._part(path)
                    found[path, leaf] = slot
        return found

    def _place(self, used: Used) -> None:
        for occurrence, region in regions_of(self.survey.graph, used):
            part, here = self._part(region.path), replace(used, occurrence=occurrence, again=())
            if region.kind == "operation":
                key = region.function, region.number
                made = Operation(part.path, *key, count=region.count)
                at = part.operations.setdefault(key, made)
                at.function, at.recorded = _asked(occurrence.call)
                at.sites.append(here)
                at.far[occurrence.site.id] = self._shown(here)
            else:
                part.sites.append(here)
                part.within |= region.kind == "inside"
            self._anchor(occurrence, region)
        site = used.occurrence.site
        if site.role == "prompt" and site.layer is None and site.weight is not None:
            self._part(site.path)
            part.only_in[filled_slot(site.sequence).key] = site.path

    def _anchor(self, occurrence: Occurrence, region: Region) -> None:
        names, site = self.survey.graph.facts.names, occurrence.site
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
        found = list(self.graph(part).far) if part.sites else []
        for at in part.operations.values():
            found += [border for names in at.far.values() for border in names.values()]
        return found

    def _shown(self, used: Used) -> dict[str, Border]:
        """What a site in an operation reads that is no operand of it, and where that shows."""
        borders, occurrence = Borders.of(self.survey.graph), used.occurrence
        if occurrence.product is None or occurrence.product.kind != "sdpa":
            return {}
        before = borders.order[occurrence.call]
        found = {n: borders.shown(occurrence.values[n], before) for n in used.names - set("qkvh")}
        return {name: border for name, border in found.items() if border is not None}

    def path_of(self, site: str) -> str:
        """The module at which what acts at a site is done."""
        found = (
            path
            for path, part in self.parts.items()
            if any(used.occurrence.site.id == site for used in part.sites)
        )
        return next(found)

    def graph(self, part: Part) -> RegionGraph:
        """What the passes rewrite for a module."""
        make = inside if part.within else at_border
        sites = [(used.occurrence, used.names) for used in part.sites]
        return make(self.survey.graph, self.call(part), sites)

    def call(self, part: Part) -> ModuleCall:
        """The first call of a module when the model was recorded."""
        return next(call for call in self.survey.graph.calls if call.path == part.path)


def numbered(number: int) -> Acting:
    """A set of adapters by its number."""
    return _KNOWN[number]


def _inputs(plans: Iterable[ActivePlan]) -> dict[str, tuple[InputDef, dict[str, int]]]:
    found: dict[str, tuple[InputDef, dict[str, int]]] = {}
    for plan in plans:
        for placement in plan.plan.placements:
            use = plan.plan.uses[placement.label]
            # A size that an input names is the same at every site; `check` has seen to it.
            sizes = dict(plan.plan.sites[placement.sites[0]].dims) if placement.sites else {}
            sizes |= {k: v for k, v in use.args.items() if isinstance(v, int)}
            found.update({entry.name: (entry, sizes) for entry in use.method.inputs})
    return found


def _asked(call: Node) -> tuple[Any, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What torch was asked for, of which a node is, or is a part."""
    origin = call.meta.get(WRITTEN_OUT)
    if origin is not None:
        return origin.function, (origin.args, origin.kwargs)
    return call.meta[FUNCTION], (call.args, dict(call.kwargs))
