"""What is done with the names of a site, by all that acts there."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from peftlang.emit.applications import Application
from peftlang.sites.occurrence import Occurrence


@dataclass(frozen=True)
class Used:
    """What is done with a site's names.

    Attributes:
        occurrence: Where the site runs first in a call of the model.
        reads: Names that are read.
        writes: Names that get other values.
    """

    occurrence: Occurrence
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All of them that the occurrence has."""
        return (self.reads | self.writes) & self.occurrence.values.keys()


def usage_of(
    occurrence: Occurrence, acting: Sequence[Application], tapped: Collection[str]
) -> Used:
    """What is done with a site's names by all that acts there, and all that taps it."""
    if occurrence.site.is_expert:
        return Used(occurrence, frozenset({"W"}), frozenset({"W"}))
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
    return Used(occurrence, frozenset(reads), frozenset(writes))


def joined(every: Iterable[Used]) -> list[Used]:
    """What is done at each place, once."""
    found: dict[int, Used] = {}
    for used in every:
        known = found.get(id(used.occurrence), Used(used.occurrence))
        found[id(used.occurrence)] = Used(
            used.occurrence, known.reads | used.reads, known.writes | used.writes
        )
    return list(found.values())
