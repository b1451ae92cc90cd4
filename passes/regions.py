"""regions: the smallest part of the model that holds what a method reads and writes at a site.

Requires: a plan whose sites run in the model's graph. Ensures: a region is one operation, the border of
one module, or a module whose operations are read or changed one by one; what it needs of other places
shows at some module's border before it is needed. Where a tap reads what the model makes only later,
though not out of what reads it, the model runs as one graph, in another order. There is no table of
architectures.
"""

from collections.abc import Collection, Iterable, Iterator

from torch.fx import Node

from peftlang.capture import CapturedGraph, ModuleCall
from peftlang.capture.facts import FUNCTION
from peftlang.emit.applications import applications
from peftlang.graph.written import WRITTEN_OUT, WrittenOut
from peftlang.ir.plan import ActivePlan, Region
from peftlang.regions.borders import Borders
from peftlang.regions.usage import usage_of
from peftlang.sites.occurrence import Occurrence
from peftlang.sites.order import read_ahead
from peftlang.sites.planning import Planning


def regions(work: Planning) -> None:
    """Say for each use at each site which part of the model holds it.

    Raises:
        PeftError: S417, a tap reads what is computed from what reads it.
    """
    plan, survey = work.plan, work.survey
    found = survey.located(s for s in plan.concerned.values() if s.role != "prompt").found
    ahead = read_ahead(plan, survey)
    acting = applications([ActivePlan(name="", plan=plan)])
    placements = []
    for placement in plan.placements:
        own: dict[str, Region] = {}
        for site in (name for name in placement.sites if name in found):
            mine = [a for a in acting[site] if a.placement is placement]
            used = usage_of(found[site][0], mine, ())
            own[site] = region_of(survey.graph, used.occurrence, used.reads, used.writes)
            if ahead:
                why = f"{ahead} is read before the model makes it"
                own[site] = Region(kind="whole", path="", why=why)
        placements.append(placement.model_copy(update={"regions": own}))
    work.plan = plan.model_copy(update={"placements": tuple(placements)})


def region_of(
    captured: CapturedGraph, occurrence: Occurrence, reads: Collection[str], writes: Collection[str]
) -> Region:
    """The region of what is done at one site.

    Args:
        captured: The model's graph.
        occurrence: Where the site runs in it.
        reads: Names of the site that are read.
        writes: Names that get other values.
    """
    return _Choice(Borders.of(captured), occurrence, reads, writes).region()


class _Choice:
    def __init__(
        self, borders: Borders, occurrence: Occurrence, reads: Collection[str],
        writes: Collection[str],
    ) -> None:  # fmt: skip
        self._borders, self._occurrence = borders, occurrence
        self._writes = [name for name in writes if name in occurrence.values]
        self._reads = [name for name in reads if name in occurrence.values]

    def region(self) -> Region:
        return self._operation() or self._border() or self._inside()

    # One operation

    def _operation(self) -> Region | None:
        names = {*self._reads, *self._writes}
        values = self._occurrence.values
        if self._occurrence.product is not None and self._occurrence.product.kind == "sdpa":
            if WRITTEN_OUT not in self._occurrence.call.meta and self._far(names - set("qkvh")):
                return self._of(self._occurrence.call, self._occurrence.call.meta[FUNCTION])
        origins = {values[name].meta.get(WRITTEN_OUT) for name in names} - {None}
        origins |= {self._occurrence.call.meta.get(WRITTEN_OUT)} - {None}
        if len(origins) == 1 and not self._border():
            (origin,) = origins
            assert isinstance(origin, WrittenOut)
            return self._of(self._occurrence.call, origin.function)
        return None

    def _of(self, node: Node, function: object) -> Region:
        call = next(self._borders.around(node))
        inside = self._borders.inside(call)
        origin = node.meta.get(WRITTEN_OUT)
        if origin is None:
            number = self._borders.number_among(node, inside)
        else:
            known = dict.fromkeys(n.meta.get(WRITTEN_OUT) for n in inside)
            number = [o for o in known if o and o.function == function].index(origin)
        name = getattr(function, "__name__", str(function))
        why = f"it is within one operation of `{call.path}`"
        return Region(kind="operation", path=call.path, function=name, number=number, why=why)

    # The border of one module

    def _border(self) -> Region | None:
        if not self._writes:
            found = self._calls("h", written=False)
        else:
            each = [self._calls(name, written=True) for name in self._writes]
            paths = set.intersection(*({(c.path, c.number) for c in calls} for calls in each))
            found = [c for c in each[0] if (c.path, c.number) in paths]
        found = [c for c in found if self._readable(c) and self._borders.is_single(c)]
        if not found:
            return None
        call = min(found, key=self._preference)
        return Region(kind="module", path=call.path)

    def _preference(self, call: ModuleCall) -> tuple[bool, float]:
        begins, ends = self._borders.span(call)
        return call.path != self._occurrence.site.path, ends - begins

    def _calls(self, name: str, *, written: bool) -> list[ModuleCall]:
        """The calls at whose border a name shows, and if it changes there, changes for its readers."""
        node = self._occurrence.values.get(name)
        if node is None:
            return []
        readers = set(self._occurrence.readers.get(name, ()))
        if name in {"W", "b"}:
            return [c for c in self._owning(node) if all(self._borders.holds(c, r) for r in readers)]
        found = []
        for call in self._borders.with_output(node) if name == "h" else ():
            outside = {user for user in node.users if not self._borders.holds(call, user)}
            if not written or not readers or outside == readers:
                found.append(call)
        for call in self._borders.with_input(node):
            inside = {user for user in node.users if self._borders.holds(call, user)}
            if inside == readers or not written:
                found.append(call)
        return found

    def _owning(self, parameter: Node) -> Iterator[ModuleCall]:
        facts = self._borders.captured.facts
        name = facts.parameter_of(parameter)
        for call in self._borders.captured.calls:
            if name in facts.names.owned.get(call.path, ()):
                yield call

    def _readable(self, call: ModuleCall) -> bool:
        """Whether all that is read is there at a border in time: before the call, if it is changed."""
        begins, ends = self._borders.span(call)
        late = "h" in self._writes or not self._writes
        return self._far(self._reads, ends if late else begins)

    def _far(self, names: Iterable[str], before: float | None = None) -> bool:
        """Whether names are weights, or show at some module's border before a place."""
        order, facts = self._borders.order, self._borders.captured.facts
        before = order[self._occurrence.call] if before is None else before
        values = (self._occurrence.values[name] for name in names)
        return all(
            facts.parameter_of(node) or self._borders.shown(node, before) for node in values
        )

    # Operations inside of a module

    def _inside(self) -> Region:
        occurrence = self._occurrence
        needed = [occurrence.values[name] for name in {*self._reads, *self._writes}]
        for name in self._writes:
            needed += occurrence.readers.get(name, ())
        if occurrence.product is not None and occurrence.product.softmax is not None:
            needed += [occurrence.call, occurrence.product.softmax, *_scores(occurrence)]
        own = [n for n in needed if n.op in {"call_function", "call_method"}]
        for call in self._borders.around(own[-1] if own else occurrence.call):
            inputs = call.inputs.keys()
            if all(self._borders.holds(call, n) or n in inputs for n in own):
                break
        names = ", ".join(f"`{name}`" for name in self._writes or self._reads)
        why = f"{names} shows between operations of `{call.path}` alone"
        return Region(kind="inside", path=call.path, why=why)


def _scores(occurrence: Occurrence) -> list[Node]:
    assert occurrence.product is not None
    return [occurrence.product.scores] if occurrence.product.scores is not None else []
