"""admit: at a layer in the middle, soft tokens take the room that the input made for them.

Requires: the layers at which soft tokens come in are located, and the slot `PROMPT` says that this
call begins a sequence. Ensures: such a layer reads the sequence through a node that makes room as
before patches (`rooms`), where methods at ``prompt`` act, and no longer what the room held until
then; what those methods find as ``h`` has no room still to be filled.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.plan import Placement, Plan, Site
from peftlang.ir.reach import mixing
from peftlang.passes.entering import entries, later_at
from peftlang.passes.occurrence import Located, Occurrence
from peftlang.passes.prompts import PROMPT
from peftlang.passes.rewriting import ActivePlan, Emission, Rewriting
from peftlang.passes.tokens import sequence_of


def admit(work: Rewriting) -> None:
    """Let soft tokens in at the layers of every graph that has them."""
    if PROMPT not in work.given:
        return
    counts: dict[str, tuple[Site, int]] = {}
    for entry in entries(work.active):
        if entry.site.layer is not None and entry.site.weight is not None:
            _, before = counts.get(entry.site.id, (entry.site, 0))
            counts[entry.site.id] = entry.site, before + entry.count
    for located in work.located:
        for site, count in counts.values():
            for block in _blocks(located, site):
                _admit(located, block, site, count, work.active)


def _blocks(located: Located, site: Site) -> list[Occurrence]:
    """The occurrences of a layer whose input is in the graph."""
    found = [o for each in located.found.values() for o in each if o.site.role == "block"]
    return [o for o in found if o.site.path == site.path and "x" in o.values]


def _admit(
    located: Located, block: Occurrence, site: Site, count: int, active: tuple[ActivePlan, ...]
) -> None:
    x, readers, later = block.values["x"], block.readers["x"], later_at(active, site)
    with Emission(x) as emission:
        whole: Any = emission.proxy(x)
        inside = whole[:, later + count :]
        _describe(inside.node, x, later + count)
        made: Any = torch.ops.peftlang.room.default(inside, count, site.path)
        _describe(made.node, x, later)
        read: Any = torch.cat([whole[:, :later], made], dim=1) if later else made
        _describe(read.node, x, 0)
        if readers:
            emission.replace(x, read, only_in=readers)
    for other in (o for each in located.found.values() for o in each):
        if (other.site.stack, other.site.layer) == (site.stack, site.layer):
            held = other.values.items()
            other.values = {name: read.node if node is x else node for name, node in held}


def _describe(node: Node, whole: Node, fewer: int) -> None:
    """Say what a node holds: as a whole sequence does, with fewer tokens."""
    value = whole.meta.get("example_value")
    if isinstance(value, torch.Tensor):
        batch, tokens, width = value.shape
        value = value.new_empty(batch, tokens - fewer, width) if fewer else value
    node.meta["example_value"] = value


# What cannot be said beside soft tokens that come in later


def check_admitted(active: Sequence[ActivePlan]) -> None:
    """Refuse methods that would read what is in the room before soft tokens fill it.

    Raises:
        PeftError: S419.
    """
    if all(entry.site.layer is None for entry in entries(active)):
        return
    for adapter in active:
        for placement in adapter.plan.placements:
            for site, why in _reading_room(adapter.plan, placement, active):
                raise PeftError(
                    f"`{placement.method}` at {site.id} {why}, where soft tokens that come in at a "
                    "later layer are not yet",
                    code="S419",
                    help="place the method in layers on one side of the one where they come in, or "
                    "let them come in at the input: `at prompt`",
                )


def _reading_room(
    plan: Plan, placement: Placement, active: Sequence[ActivePlan]
) -> Iterator[tuple[Site, str]]:
    method = plan.uses[placement.label].method
    sites = [plan.sites[name] for name in placement.sites]
    alone = {tap.name for tap in method.taps if not tap.sequence}
    for site in sites:
        room = later_at(active, site)
        for name, tap in placement.taps.get(site.id, {}).items():
            other = plan.concerned[tap.site]
            same = sequence_of(other) == sequence_of(site)
            if name in alone and same and later_at(active, other) != room:
                yield site, f"reads {other.id} token by token"
        chain = [s for s in sites if s.stack == site.stack] if method.carries else []
        if any(later_at(active, other) != room for other in chain):
            yield site, "carries a state through all its layers, from the first"
        if room and any(
            _over_keys(node) for c in method.compositions for node in postorder(c.value)
        ):
            yield site, "reads all keys"
        if room and site.layer is None and mixing(method):
            yield site, "reads all tokens"


def _over_keys(node: object) -> bool:
    return isinstance(node, Apply) and Dim.of("keys") in node.over
