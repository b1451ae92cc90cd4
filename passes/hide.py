"""hide: before the layer at which soft tokens come in, nothing is seen of the room made for them.

Requires: located sites, and the slot `PAST`, which says how many tokens of the sequence a cache
holds, its soft tokens with them. Ensures: in the layers before, tokens attend as if there were no
room, whatever mask the model has; positions that are looked up in a table, or turned into angles,
are those that the tokens have without it. Room sees what the model lets it, so that no row of
weights is empty.
"""

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.passes.attention_view import argument
from peftlang.passes.dataflow.flow import Flow, is_float
from peftlang.passes.dataflow.ops import name_of
from peftlang.passes.dataflow.structure import is_inside
from peftlang.passes.entering import counts, entries, later_at
from peftlang.passes.lengthen import set_argument
from peftlang.passes.locate import PLACES_TABLE
from peftlang.passes.occurrence import Occurrence
from peftlang.passes.rewriting import Emission, Rewriting, SlotReads

PAST = "+past"
"""Slot of the number of tokens that the cache of a call holds: ``[1]``, whole."""


def hide(work: Rewriting) -> None:
    """Hide room still to be filled, in graphs of calls that have some."""
    if PAST not in work.given:
        return
    for graph, located in zip(work.graphs, work.located, strict=True):
        reads, rooms = SlotReads(graph, work, prefix="peftlang_past"), _room_by_stack(work)
        for occurrence in (o for found in located.found.values() for o in found):
            count = later_at(work.active, occurrence.site)
            if not count:
                continue
            if occurrence.site.role == "attn.core":
                _hide(occurrence, count, reads)
            elif occurrence.site.role == PLACES_TABLE:
                _renumber(occurrence.call, occurrence.call.all_input_nodes[0], count, least=0)
        for stack, count in rooms.items():
            for reader, places in _turned(graph, stack):
                _renumber(reader, places, count)


def _room_by_stack(work: Rewriting) -> dict[str, int]:
    """How much room is made before each stack of layers that sees some of it only later."""
    found: dict[str, int] = {}
    for entry in entries(work.active):
        stack, layer = entry.site.stack, entry.site.layer
        if stack is not None and layer is not None and entry.site.weight is not None:
            found[stack] = found.get(stack, 0) + entry.count
    return found


def _renumber(reader: Node, places: Node, count: int, *, least: int | None = None) -> None:
    """Let a node read the places that tokens have without ``count`` in front."""
    with Emission(reader.prev) as emission:
        own: Any = emission.proxy(places)
        own = own - count
        own = own if least is None else own.clamp(min=least)
        own.node.meta["example_value"] = places.meta.get("example_value")
        reader.replace_input_with(places, own.node)


def _turned(graph: CapturedGraph, stack: str) -> list[tuple[Node, Node]]:
    """Where places of a stack's tokens become numbers for angles: reader and places."""
    around = stack.rpartition(".")[0]
    waves = [n for n in graph.gm.graph.nodes if name_of(n) == "cos"]
    waves = [n for n in waves if is_inside(graph.facts.module_path(n) or "", around)]
    if not waves:
        return []
    flow = Flow(graph)
    made_of = set(flow.ancestors(waves))
    return [
        (node, operand)
        for node in made_of
        if is_float(node)
        for operand in flow.operands[node]
        if _is_whole(operand) and counts(flow, operand)
    ]


def _is_whole(node: Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.dtype in {torch.int64, torch.int32}


def _hide(occurrence: Occurrence, count: int, reads: SlotReads) -> None:
    product = occurrence.product
    assert product is not None
    past = reads(PAST)
    if product.kind == "softmax":
        assert product.softmax is not None
        softmax, scores = product.softmax, product.softmax.all_input_nodes[0]
        with Emission(softmax.prev) as emission:
            hidden = _hidden(emission, occurrence, past, count)
            seen = _without(emission.proxy(scores), hidden, scores)
            emission.replace(scores, seen, only_in=(softmax,))
        return
    call = occurrence.call
    with Emission(call.prev) as emission:
        hidden = _hidden(emission, occurrence, past, count)
        mask = _masked(emission, call, hidden)
    set_argument(call, 3, "attn_mask", mask)
    set_argument(call, 5, "is_causal", False)
    occurrence.product = replace(product, mask=mask)


def _masked(emission: Emission, call: Node, hidden: Any) -> Node:
    """The mask of an attention product, and what is hidden besides."""
    mask = argument(call, 3, "attn_mask", default=None)
    if isinstance(mask, Node):
        seen: Any = emission.proxy(mask)
        boolean = _dtype(mask) is torch.bool
        made = seen & ~hidden if boolean else _without(seen, hidden, mask)
        made.node.meta["example_value"] = mask.meta.get("example_value")
        return made.node  # type: ignore[no-any-return]
    if argument(call, 5, "is_causal", default=False) is not False:
        made = torch.tril(torch.ones_like(hidden)) & ~hidden
    else:
        made = ~hidden
    made.node.meta["example_value"] = torch.ones(1, dtype=torch.bool)
    return made.node  # type: ignore[no-any-return]


def _without(scores: Any, hidden: Any, node: Node) -> Any:
    """Scores that leave no weight to what is hidden; finite, where a row has nothing else."""
    seen = scores.masked_fill(hidden, torch.finfo(_dtype(node)).min)
    seen.node.meta["example_value"] = node.meta.get("example_value")
    return seen


def _dtype(node: Node) -> torch.dtype:
    value = node.meta.get("example_value")
    return value.dtype if isinstance(value, torch.Tensor) else torch.float32


def _hidden(emission: Emission, occurrence: Occurrence, past: Node, count: int) -> Any:
    """True where a token would see room: ``[queries, keys]``.

    A query's place in the sequence is its row behind the cache's tokens. The keys are the last of
    all so far, or the first of a cache of fixed size, whose others a mask leaves out.
    """
    held: Any = emission.proxy(past)
    rows, columns = (_numbers(emission, occurrence, name) for name in "qk")
    total = held + torch.ones_like(rows).sum()
    first = (total - torch.ones_like(columns).sum()).clamp(min=0)
    room = (columns + first < count).unsqueeze(0)
    return room & (rows + held >= count).unsqueeze(1)


def _numbers(emission: Emission, occurrence: Occurrence, name: str) -> Any:
    """The numbers from 0 of the tokens that an operand has."""
    value: Any = emission.proxy(occurrence.values[name]).detach()
    layout = occurrence.layout.get(name, "bhtd")
    for axis in reversed(range(len(layout))):
        if layout[axis] != "t":
            value = value.select(axis, 0)
    return torch.ones_like(value, dtype=torch.long).cumsum(0) - 1
