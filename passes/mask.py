"""mask: before the layer at which soft tokens come in, nothing is seen of the positions reserved.

Requires: located sites, and the slot `cached`, which says how many tokens of the sequence a cache
holds, its soft tokens with them. Ensures: in the layers before, tokens attend as if there were no
such positions, whatever mask the model has; places that are looked up in a table, or turned into
angles, are those that the tokens have without them. A reserved position sees what the model lets
it, so that no row of weights is empty.
"""

from dataclasses import replace as changed
from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.dataflow.ops import argument
from peftlang.emit.attention_view import FOLDED
from peftlang.emit.lengthen import set_argument
from peftlang.emit.rewriting import Emission, Rewriting, node_of, replace
from peftlang.emit.slots import Slot
from peftlang.ir.soft_tokens import POSITION_TABLE, entries, reserved_at
from peftlang.prompts.places import cached_slot
from peftlang.prompts.usage import ANGLES
from peftlang.sites.occurrence import Occurrence


def mask(work: Rewriting) -> None:
    """Hide reserved positions that are still to be filled, in calls that have some."""
    for occurrence in work.occurrences:
        site = occurrence.site
        slot = cached_slot(site.sequence)
        if site.role == ANGLES:
            found = [name for name in work.given if name.startswith("cached:")]
            count = sum(
                e.count
                for e in entries(work.active)
                if e.site.stack == site.stack and e.site.layer is not None and e.has_ids
            )
            if found and count:
                _renumber(work, occurrence, count)
        elif work.has(slot) and (count := reserved_at(work.active, site)):
            if site.role == "attn.core":
                _hide(work, occurrence, count, slot)
            elif site.role == POSITION_TABLE:
                _renumber(work, occurrence, count, least=0)


def _renumber(
    work: Rewriting, occurrence: Occurrence, count: int, *, least: int | None = None
) -> None:
    """Let a node read the places that tokens have without ``count`` in front."""
    places, readers = occurrence.values["x"], occurrence.readers["x"]
    with Emission(work, readers[0]) as emission:
        own: Any = emission.proxy(places) - count
        own = own if least is None else own.clamp(min=least)
    replace(places, node_of(own), readers, but=emission.made)


def _hide(work: Rewriting, occurrence: Occurrence, count: int, slot: Slot) -> None:
    product = occurrence.product
    assert product is not None
    cached = work.read(slot)
    if product.kind == "softmax":
        assert product.softmax is not None
        softmax, scores = product.softmax, product.softmax.all_input_nodes[0]
        with Emission(work, softmax) as emission:
            hidden = _hidden(emission, occurrence, cached, count)
            seen = emission.call(without, emission.proxy(scores), hidden)
        replace(scores, node_of(seen), (softmax,), but=emission.made)
        return
    call = occurrence.call
    with Emission(work, call) as emission:
        hidden = _hidden(emission, occurrence, cached, count)
        made = _masked(emission, call, hidden)
    set_argument(call, 3, "attn_mask", made)
    set_argument(call, 5, "is_causal", False)
    occurrence.product = changed(product, mask=made)


def _masked(emission: Emission, call: Node, hidden: Any) -> Node:
    """The mask of an attention product, and what is hidden besides."""
    given = argument(call, 3, "attn_mask")
    if isinstance(given, Node):
        seen: Any = emission.proxy(given)
        value = given.meta.get(VALUE)
        boolean = isinstance(value, torch.Tensor) and value.dtype is torch.bool
        made = node_of(seen & ~hidden if boolean else emission.call(without, seen, hidden))
        made.meta[VALUE] = value
        return made
    if argument(call, 5, "is_causal", default=False) is not False:
        made = node_of(torch.tril(torch.ones_like(hidden)) & ~hidden)
    else:
        made = node_of(~hidden)
    made.meta[VALUE] = torch.ones(1, dtype=torch.bool)
    return made


def without(scores: Any, hidden: Any) -> Any:
    """Scores that leave no weight to what is hidden; finite, where a row has nothing else."""
    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def _hidden(emission: Emission, occurrence: Occurrence, cached: Node, count: int) -> Any:
    """True where a token would see a reserved position: ``[queries, keys]``.

    A query's place in the sequence is its row behind the cache's tokens. The keys are the last of
    all so far, or the first of a cache of fixed size, whose others a mask leaves out.
    """
    held: Any = emission.proxy(cached)
    rows, columns = (_numbers(emission, occurrence, name) for name in "qk")
    total = held + torch.ones_like(rows).sum()
    first = (total - torch.ones_like(columns).sum()).clamp(min=0)
    reserved = (columns + first < count).unsqueeze(0)
    return reserved & (rows + held >= count).unsqueeze(1)


def _numbers(emission: Emission, occurrence: Occurrence, name: str) -> Any:
    """The numbers from 0 of the tokens that an operand has."""
    value: Any = emission.proxy(occurrence.values[name]).detach()
    layout = occurrence.layout.get(name, "bhtd")
    if layout == FOLDED:
        return torch.zeros_like(value.flatten()[:1], dtype=torch.long)
    for axis in reversed(range(len(layout))):
        if layout[axis] != "t":
            value = value.select(axis, 0)
    return torch.ones_like(value, dtype=torch.long).cumsum(0) - 1
