"""What acts at each site, and in which steps and order `insert` writes it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from torch.fx import Node

from peftlang.ir.method import Composition, Method, fixed
from peftlang.ir.plan import Placement, Site
from peftlang.ir.sizes import site_sizes
from peftlang.passes.flows import reads_activations
from peftlang.passes.occurrence import Located, Occurrence
from peftlang.passes.rewriting import ActivePlan

NESTING = ("block", "ffn", "cross_attn", "attn")
"""Positions whose ``h`` may be one node: the outer acts after the inner."""


@dataclass(frozen=True, eq=False)
class Application:
    """One method at one site: whose tensors, which expressions, at which sizes.

    ``rank`` is where it stands in the order in which all that is active acts.
    """

    adapter: str
    placement: Placement
    method: Method
    site: Site
    rank: int

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


def applications(active: Iterable[ActivePlan]) -> dict[str, list[Application]]:
    """What acts at each site, by the site's id, in the order in which it acts."""
    found: dict[str, list[Application]] = {}
    placed = ((adapter, placement) for adapter in active for placement in adapter.plan.placements)
    for rank, (adapter, placement) in enumerate(placed):
        plan = adapter.plan
        use = plan.uses[placement.label]
        method = fixed(use.method, use.args)
        for site in placement.sites:
            application = Application(adapter.name, placement, method, plan.sites[site], rank)
            found.setdefault(site, []).append(application)
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
        coming: Steps of the same operation that are written later, and act earlier.
    """

    occurrence: Occurrence
    changes: tuple[Change, ...]
    after: bool
    coming: tuple["Step", ...]

    @property
    def applications(self) -> list[Application]:
        """What acts, each once."""
        return list(dict.fromkeys(application for application, _ in self.changes))

    @property
    def targets(self) -> set[str]:
        """Names in the site's scope that change."""
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

    def operands(self, occurrence: Occurrence) -> set[str]:
        """What an occurrence reads that this step changes: the ``x`` of a slice is its alone."""
        found = self.targets - {"h"}
        return found if not self.after or occurrence is self.occurrence else found - {"x"}

    def moving(self, occurrence: Occurrence) -> set[str]:
        """What an occurrence reads that a step still to come changes."""
        return set().union(*(step.operands(occurrence) for step in self.coming))


Acting = tuple[Application, Occurrence]


def outermost_first(
    located: Located, by_site: Mapping[str, Sequence[Application]], order: Sequence[Node]
) -> list[Step]:
    """Steps from the end of the graph to its beginning.

    What a site reads lies before what it changes. Going backwards, everything that a site reads
    is still as captured when its operations are written, and follows when it changes later. Of
    what one operation computes, what acts last is written first, for the same reason.
    """
    position = {node: index for index, node in enumerate(order)}
    steps = [step for acting in _by_operation(located, by_site) for step in _steps(acting)]

    def key(step: Step) -> tuple[float, int]:
        occurrence, role = step.occurrence, step.occurrence.site.role
        nesting = NESTING.index(role) if role in NESTING else len(NESTING)
        if step.entering:
            # After all that stands inside the layer, before the one that gives it its input.
            return -position[occurrence.values["x"]] - 0.25, nesting
        last = position[occurrence.values["h"] if step.after else occurrence.call]
        return -last if step.after else 0.5 - last, nesting

    return sorted(steps, key=key)


def _by_operation(
    located: Located, by_site: Mapping[str, Sequence[Application]]
) -> list[list[Acting]]:
    """What acts on each operation, in order: a projection may be several sites, and parts of one.

    A layer and its parts may end at one operation too, and the outer one acts after the inner.
    """
    found: dict[tuple[Node, str], list[Acting]] = {}
    for site, occurrences in located.found.items():
        for occurrence in occurrences:
            if "h" in occurrence.values:
                role = occurrence.site.role if occurrence.site.role in NESTING else ""
                acting = found.setdefault((occurrence.call, role), [])
                acting += [(application, occurrence) for application in by_site.get(site, ())]
    return [sorted(acting, key=lambda pair: pair[0].rank) for acting in found.values()]


def _steps(acting: Sequence[Acting]) -> list[Step]:
    """Changes of ``h`` apart from changes of what is read, and what acts last before the others.

    A role that is a slice of a fused projection shares its ``x`` with the other slices, so a
    change of ``x`` is there a change of the slice of ``h``, before all others of it.
    """
    result: list[tuple[Change, Occurrence]] = []
    late: list[tuple[Change, Occurrence]] = []
    operands: list[tuple[Change, Occurrence]] = []
    for application, occurrence in acting:
        sliced = occurrence.site.rows is not None and not occurrence.sliced
        own = len(result)
        for composition in application.method.compositions:
            if composition.target in {"h"} | application.carried:
                kind = result
            else:
                kind = late if composition.target == "x" and sliced else operands
            kind.append(((application, composition), occurrence))
        if application.penalised and len(result) == own:
            result.append(((application, None), occurrence))
    steps: list[Step] = []
    for changes, after in ((operands, False), (late, True), (result, True)):
        for occurrence, run in groupby(changes, key=itemgetter(1)):
            step = Step(occurrence, tuple(c for c, _ in run), after, tuple(steps))
            steps.append(step)
    return steps[::-1]
