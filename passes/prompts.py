"""prompts: soft tokens take the positions that were made for them.

Requires: where soft tokens come in is located; the slot `filled` says that this call begins a
sequence that has them. Ensures: what reads the embeddings, or a layer's input, reads a sequence
that begins with positions still to be filled, then with the soft tokens of that place; methods at
``prompt`` find as ``h`` the sequence without either. Where a stack's layers made the sequence
longer themselves, its last one makes it as short as it was.
"""

from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.emit.rewriting import Emission, Rewriting, node_of, replace
from peftlang.emit.tokens import filled_slot
from peftlang.ir.plan import Site
from peftlang.ir.soft_tokens import entries, reserved_at
from peftlang.prompts.places import behind, fillers, first, put_before, ready_slot
from peftlang.prompts.usage import LEAVING
from peftlang.sites.occurrence import Occurrence


def prompts(work: Rewriting) -> None:
    """Make place for soft tokens, in calls that have some."""
    for occurrence in list(work.occurrences):
        site = occurrence.site
        if not work.has(filled_slot(site.sequence)):
            if site.role == "prompt":
                del work.located.found[site.id]
        elif site.role == "prompt":
            if site.weight is not None and site.layer is None:
                _clamp(work, occurrence)
            _enter(work, occurrence)
        elif site.role == LEAVING:
            _leave(work, occurrence)


def _clamp(work: Rewriting, occurrence: Occurrence) -> None:
    """Soft tokens have ids below zero, which no table has."""
    ids, readers = occurrence.values["x"], occurrence.readers["x"]
    with Emission(work, readers[0]) as emission:
        real = emission.proxy(ids).clamp(min=0)
    replace(ids, node_of(real), readers, but=emission.made)


def _enter(work: Rewriting, occurrence: Occurrence) -> None:
    site, whole = occurrence.site, occurrence.values["h"]
    own_entries = [entry for entry in entries(work.active) if entry.site.id == site.id]
    count = sum(entry.count for entry in own_entries)
    reserved = _reserved(work, site)
    front = reserved + (count if site.weight is not None else 0)
    readers = occurrence.readers.get("h", ())
    with Emission(work, readers[0] if readers else whole.next) as emission:
        found = emission.proxy(whole)
        own: Any = emission.call(behind, found, front)
        own_node = node_of(own)
        joined = own_node
        if reserved:
            before = emission.call(_before(site), found, reserved)
            joined = node_of(emission.call(put_before, before, own))
    _describe(own_node, whole, -front)
    joined.meta[VALUE] = whole.meta.get(VALUE)
    replace(whole, joined, readers, but=emission.made)
    occurrence.call, occurrence.values = own_node, {"h": own_node}
    occurrence.readers = {"h": (joined,) if reserved else readers}
    ready = ready_slot(site.sequence)
    if work.has(ready):
        with Emission(work, own_node.next) as emission:
            made = node_of(emission.call(put_before, emission.proxy(work.read(ready)), own))
        replace(own_node, made, occurrence.readers["h"], but=emission.made)
        del work.located.found[site.id]
    for other in work.occurrences:
        if other is not occurrence:
            values = other.values.items()
            other.values = {name: joined if n is whole else n for name, n in values}


def _reserved(work: Rewriting, site: Site) -> int:
    """Positions before a site's own soft tokens that later ones have."""
    if site.weight is None:
        return 0
    if site.layer is not None:
        return reserved_at(work.active, site)
    return sum(
        e.count
        for e in entries(work.active)
        if e.site.layer is not None and e.has_ids and e.site.side == site.side
    )


def _before(site: Site) -> Any:
    return first if site.layer is not None else fillers


def _describe(node: Node, whole: Node, more: int) -> None:
    """Say what a node holds: a sequence as long as another, and some tokens more."""
    value = whole.meta.get(VALUE)
    if isinstance(value, torch.Tensor):
        node.meta[VALUE] = torch.empty(
            (value.shape[0], max(value.shape[1] + more, 1), value.shape[2]),
            dtype=value.dtype,
            device="meta",
        )


def _leave(work: Rewriting, occurrence: Occurrence) -> None:
    """The last layer of a stack lets soft tokens go."""
    count = sum(e.count for e in entries(work.active) if e.site.stack == occurrence.site.stack)
    whole = occurrence.values["h"]
    with Emission(work, work.graph.output_node()) as emission:
        kept = node_of(emission.call(behind, emission.proxy(whole), count))
    replace(whole, kept, but=emission.made)
