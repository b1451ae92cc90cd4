"""What soft tokens ask of a model besides the sites of methods."""

from collections.abc import Iterable, Iterator, Sequence

from torch.fx import Node

from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import is_inside
from peftlang.ir.plan import ActivePlan, Site
from peftlang.ir.soft_tokens import POSITION_TABLE, entries, reserved_at
from peftlang.prompts.layers import turned
from peftlang.regions.usage import Used
from peftlang.sites.occurrence import Occurrence
from peftlang.sites.survey import Survey

ANGLES = "angles"
"""Role of what turns places of tokens into angles: no position of the language."""

LEAVING = "leaving"
"""Role of a stack's last layer where soft tokens go out again: no position of the language."""


def asked(survey: Survey, active: Sequence[ActivePlan]) -> Iterator[Used]:
    """Where soft tokens come in, where they go out, and what may not see reserved positions."""
    found = entries(active)
    sites = {entry.site.id: entry.site for entry in found}
    for entry in found:
        if entry.has_ids:
            # Positions are reserved where the sequence is made, for all that comes in later.
            made = (s for s in survey.sites if s.role == "prompt" and s.layer is None)
            sites |= {s.id: s for s in made if s.weight == entry.site.weight}
    for site in sites.values():
        yield from _entering(survey, site)
    for stack in dict.fromkeys(e.site.stack for e in found if not e.has_ids):
        yield from _leaving(survey, stack)
    if any(entry.has_ids and entry.site.layer is not None for entry in found):
        yield from _reserving(survey, active)


def _entering(survey: Survey, site: Site) -> Iterator[Used]:
    names = frozenset({"h"})
    if site.weight is not None and site.layer is None:
        reading = Reading.of(survey.graph)
        uses = reading.using(site.weight, "embed")
        for use in (u for u in uses if not site.path or _runs_in(reading, u.call, site.path)):
            values = {"h": use.call, "x": use.x}
            one = Occurrence(site, use.call, values, {"x": (use.call,)})
            yield Used(one, names | {"x"}, names | {"x"}, looks=True)
        return
    for block in _blocks(survey, site.stack, site.layer or 0):
        one = Occurrence(
            site, block.call, {"h": block.values["x"]}, {"h": tuple(block.readers["x"])}
        )
        yield Used(one, names, names)


def _runs_in(reading: Reading, node: Node, path: str) -> bool:
    return any(is_inside(inner, path) for inner in reading.graph.facts.module_paths(node))


def _leaving(survey: Survey, stack: str | None) -> Iterator[Used]:
    last = max(s.layer or 0 for s in survey.sites if s.role == "block" and s.stack == stack)
    for block in _blocks(survey, stack, last):
        site = block.site.model_copy(update={"id": f"{block.site.path}#{LEAVING}", "role": LEAVING})
        one = Occurrence(site, block.call, {"h": block.values["h"]})
        yield Used(one, frozenset({"h"}), frozenset({"h"}))


def _blocks(survey: Survey, stack: str | None, layer: int) -> list[Occurrence]:
    sites = [s for s in survey.sites if s.role == "block" and (s.stack, s.layer) == (stack, layer)]
    return [found[0] for found in survey.located(sites).found.values()]


def _reserving(survey: Survey, active: Iterable[ActivePlan]) -> Iterator[Used]:
    """What must not see positions that are still to be filled."""
    active = list(active)
    beside = {k: s for plan in active for k, s in plan.plan.beside.items()}
    for found in survey.located(beside.values()).found.values():
        site = found[0].site
        if not reserved_at(active, site):
            continue
        if site.role == "attn.core":
            reads = frozenset({"q", "k", "v", "h"})
            yield Used(found[0], reads, frozenset({"q"}))
        elif site.role == POSITION_TABLE:
            one = Occurrence(
                site, found[0].call, {"x": _looked_up(found[0].call)}, {"x": (found[0].call,)}
            )
            yield Used(one, frozenset({"x"}), frozenset({"x"}))
    for stack in dict.fromkeys(e.site.stack for e in entries(active) if e.site.stack):
        yield from _angles(survey, stack)


def _looked_up(lookup: Node) -> Node:
    return lookup.all_input_nodes[0]


def _angles(survey: Survey, stack: str) -> Iterator[Used]:
    for reader, places in turned(survey.graph, stack):
        path = survey.graph.facts.module_path(reader) or ""
        site = Site(id=f"{path}#{ANGLES}.{reader}", role=ANGLES, path=path, stack=stack)
        one = Occurrence(site, reader, {"x": places}, {"x": (reader,)})
        yield Used(one, frozenset({"x"}), frozenset({"x"}))
