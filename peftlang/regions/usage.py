"""What is done with the names of a site, by all that acts there."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from torch.fx import Node

from peftlang.emit.applications import Application
from peftlang.sites.occurrence import Occurrence, operation_of


@dataclass(frozen=True)
class Used:
    """What is done with a site's names.

    Attributes:
        occurrence: Where the site runs first in a call of the model.
        reads: Names that are read.
        writes: Names that get other values.
        again: Where it runs again in the same call.
        looks: Whether what is done looks at facts of the call, and does nothing where the same
            module runs for something else.
    """

    occurrence: Occurrence
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    again: tuple[Occurrence, ...] = ()
    looks: bool = False

    @property
    def everywhere(self) -> tuple[Occurrence, ...]:
        """Where the site runs in a call of the model."""
        return self.occurrence, *self.again

    @property
    def names(self) -> frozenset[str]:
        """All of them that the occurrence has."""
        return (self.reads | self.writes) & self.occurrence.values.keys()


def usage_of(
    found: Sequence[Occurrence], acting: Sequence[Application], tapped: Collection[str]
) -> Used:
    """What is done with a site's names by all that acts there, and all that taps it."""
    occurrence, *again = found
    if occurrence.site.is_expert:
        return Used(occurrence, frozenset({"W"}), frozenset({"W"}), tuple(again))
    reads = set(tapped).union(*(application.reads for application in acting))
    writes = {c.target for a in acting for c in a.operands}
    for application in acting:
        if application.results or application.penalties:
            # What shows how many tokens there are, and in which number type.
            reads.add("h")
        if any(c.target == "h" for c in application.results):
            writes.add("h")
        if application.operands and occurrence.product is None:
            reads |= {"x"} & occurrence.values.keys()
        if application.operands and occurrence.product is not None:
            reads.add("q")
        if occurrence.site.rows is not None and "x" in writes:
            reads |= {"W", "b"}
    if occurrence.product is not None:
        reads |= {"q", "k", "v", "h"}
    return Used(occurrence, frozenset(reads), frozenset(writes), tuple(again))


def joined(every: Iterable[Used]) -> list[Used]:
    """What is done at each place, once, with all that is done at the same operation.

    A projection may be several sites, and parts of one: what acts on one of them is written where
    what acts on the others is.
    """
    places: dict[int, Used] = {}
    operations: dict[tuple[Node, str], Used] = {}
    for used in every:
        places[id(used.occurrence)] = used
        known = operations.get(operation_of(used.occurrence), used)
        operations[operation_of(used.occurrence)] = replace(
            used, reads=known.reads | used.reads, writes=known.writes | used.writes
        )
    for key, used in places.items():
        whole = operations[operation_of(used.occurrence)]
        places[key] = replace(used, reads=whole.reads, writes=whole.writes)
    return list(places.values())
