"""The smallest part of a model that holds what is read and written at a site."""

from collections.abc import Callable, Iterable, Iterator

from torch.fx import Node

from peftlang.capture import CapturedGraph, ModuleCall
from peftlang.capture.facts import FUNCTION, asked_name
from peftlang.capture.memory import OVERWRITTEN
from peftlang.dataflow.borders import Borders
from peftlang.dataflow.written import WRITTEN_OUT, WrittenOut
from peftlang.ir.plan import Reason, Region
from peftlang.regions.usage import Used
from peftlang.sites.occurrence import Occurrence

Placed = tuple[Occurrence, Region]
"""Where a site runs, and the region that holds it."""


def regions_of(captured: CapturedGraph, used: Used) -> list[Placed]:
    """The region of what is done at one site: for each occurrence that a region's graph has.

    A module that is called several times runs the same program each time; so its graph is that of
    its first call, and the other calls have to be alike.

    Args:
        captured: The model's graph.
        used: What is done.
    """
    return _Choice(Borders.of(captured), used).placed()


class _Choice:
    def __init__(self, borders: Borders, used: Used) -> None:
        self._borders, self._used = borders, used
        self._writes = sorted(n for n in used.writes if n in used.occurrence.values)
        self._reads = sorted(n for n in used.reads if n in used.occurrence.values)

    @property
    def _changed(self) -> tuple[str, ...]:
        """The names that tell why: those that change, or else those that are read."""
        return tuple(self._writes or self._reads)

    def placed(self) -> list[Placed]:
        return self._operation() or self._border() or self._inside()

    # One operation

    def _operation(self) -> list[Placed]:
        names, occurrence = {*self._reads, *self._writes}, self._used.occurrence
        values = occurrence.values
        product, is_whole = occurrence.product, WRITTEN_OUT not in occurrence.call.meta
        fused = is_whole and product is not None and product.kind == "sdpa"
        if fused and self._far(occurrence, names - set("qkvh")):
            return self._within_one(lambda o: o.call.meta[FUNCTION])
        origins = {values[name].meta.get(WRITTEN_OUT) for name in names} - {None}
        origins |= {occurrence.call.meta.get(WRITTEN_OUT)} - {None}
        if len(origins) == 1 and not self._border():
            (origin,) = origins
            assert isinstance(origin, WrittenOut)
            return self._within_one(lambda _: origin.function)
        return []

    def _within_one(self, function: Callable[[Occurrence], object]) -> list[Placed]:
        first = next(self._borders.around(self._used.occurrence.call))
        held = [o for o in self._used.everywhere if self._borders.holds(first, o.call)]
        return [(o, self._of(first, o.call, function(o))) for o in held]

    def _of(self, call: ModuleCall, node: Node, function: object) -> Region:
        asked: list[object] = []
        for other in self._borders.own(call):
            origin = other.meta.get(WRITTEN_OUT)
            if origin is None and other.meta.get(FUNCTION) == function:
                asked.append(other)
            elif origin is not None and origin.function == function and origin not in asked:
                asked.append(origin)
        return Region(
            kind="operation",
            path=call.path,
            function=asked_name(function),
            number=asked.index(node.meta.get(WRITTEN_OUT, node)),
            count=len(asked),
            reason=Reason(kind="within", names=self._changed),
        )

    # The border of one module

    def _border(self) -> list[Placed]:
        """The module at whose border all shows, each time that it is called."""
        each = [self._showing(occurrence) for occurrence in self._used.everywhere]
        paths = set.intersection(*({call.path for call in calls} for calls in each))
        covered = {(call.path, call.number) for calls in each for call in calls}
        found = [
            call
            for call in each[0]
            if call.path in paths and (self._used.looks or self._always(call.path, covered))
        ]
        if not found:
            return []
        call = min(found, key=self._preference)
        reason = Reason(kind="border", names=self._changed)
        return [(self._used.occurrence, Region(kind="module", path=call.path, reason=reason))]

    def _always(self, path: str, covered: set[tuple[str, int]]) -> bool:
        calls = (call for call in self._borders.captured.calls if call.path == path)
        return all((call.path, call.number) in covered for call in calls)

    def _showing(self, occurrence: Occurrence) -> list[ModuleCall]:
        if not self._writes:
            found = self._calls(occurrence, "h", written=False)
        else:
            each = [self._calls(occurrence, name, written=True) for name in self._writes]
            common = set.intersection(*({(c.path, c.number) for c in calls} for calls in each))
            found = [c for c in each[0] if (c.path, c.number) in common]
        return [call for call in found if self._readable(occurrence, call)]

    def _preference(self, call: ModuleCall) -> tuple[bool, float]:
        begins, ends = self._borders.span(call)
        return call.path != self._used.occurrence.site.path, ends - begins

    def _calls(self, occurrence: Occurrence, name: str, *, written: bool) -> list[ModuleCall]:
        """The calls at whose border a name shows; if it changes there, it does for its readers."""
        node = occurrence.values.get(name)
        if node is None:
            return []
        readers = set(occurrence.readers.get(name, ()))
        if name in {"W", "b"}:
            return [
                c for c in self._owning(node) if all(self._borders.holds(c, r) for r in readers)
            ]
        found = []
        for call in self._borders.with_output(node) if name == "h" else ():
            outside = {user for user in node.users if not self._borders.holds(call, user)}
            if not written or not readers or outside == readers:
                found.append(call)
        for call in self._borders.with_input(node):
            inside = {user for user in node.users if self._borders.holds(call, user)}
            lost = written and self._borders.holds(call, node.meta.get(OVERWRITTEN, node))
            if not lost and (inside == readers or not written):
                found.append(call)
        return found

    def _owning(self, parameter: Node) -> Iterator[ModuleCall]:
        facts = self._borders.captured.facts
        name = facts.parameter_of(parameter)
        for call in self._borders.captured.calls:
            if name in facts.names.owned.get(call.path, ()):
                yield call

    def _readable(self, occurrence: Occurrence, call: ModuleCall) -> bool:
        """Whether all that is read is at a border in time: before the call, if it is changed."""
        begins, ends = self._borders.span(call)
        late = "h" in self._writes or not self._writes
        return self._far(occurrence, self._reads, ends if late else begins)

    def _far(
        self, occurrence: Occurrence, names: Iterable[str], before: float | None = None
    ) -> bool:
        """Whether names are weights, or show at some module's border before a place."""
        order, facts = self._borders.order, self._borders.captured.facts
        before = order[occurrence.call] if before is None else before
        values = (occurrence.values[name] for name in names)
        return all(facts.parameter_of(node) or self._borders.shown(node, before) for node in values)

    # Operations inside of a module

    def _inside(self) -> list[Placed]:
        everywhere = self._used.everywhere
        each = [self._holding(occurrence) for occurrence in everywhere]
        for call in each[0]:
            if not all(any(c.path == call.path for c in calls) for calls in each):
                continue
            runs = self._runs(call.path, everywhere)
            if self._used.looks or all(places == runs[call.number] for places in runs.values()):
                reason = Reason(kind="between", names=self._changed)
                region = Region(kind="inside", path=call.path, reason=reason)
                return [(o, region) for o in everywhere if self._borders.holds(call, o.call)]
        raise AssertionError(f"the model does not hold {self._used.occurrence.site.id}")

    def _runs(
        self, path: str, everywhere: Iterable[Occurrence]
    ) -> dict[int, list[tuple[str, int]]]:
        """For each call of a module: at which of its operations the site runs."""
        found: dict[int, list[tuple[str, int]]] = {}
        for call in (c for c in self._borders.captured.calls if c.path == path):
            inside = self._borders.inside(call)
            found[call.number] = [
                (str(o.call.meta.get(FUNCTION)), self._borders.number_among(o.call, inside))
                for o in everywhere
                if self._borders.holds(call, o.call)
            ]
        return found

    def _holding(self, occurrence: Occurrence) -> list[ModuleCall]:
        """The calls that hold all that is read and changed, or take it; the smallest first."""
        needed = [occurrence.values[name] for name in {*self._reads, *self._writes}]
        for name in self._writes:
            needed += occurrence.readers.get(name, ())
        if occurrence.product is not None and occurrence.product.softmax is not None:
            needed += [occurrence.call, occurrence.product.softmax, *_scores(occurrence)]
        own = {n for n in needed if n.op in {"call_function", "call_method"}} | {occurrence.call}
        return [
            call
            for call in self._borders.around(occurrence.call)
            if all(self._borders.holds(call, n) or n in call.inputs for n in own)
        ]


def _scores(occurrence: Occurrence) -> list[Node]:
    assert occurrence.product is not None
    return [occurrence.product.scores] if occurrence.product.scores is not None else []
