"""prompts: virtual tokens find their embeddings in the adapters' prompts.

Requires: the runtime put virtual tokens before the caller's, which have ids below zero, and says
so by the slot `PROMPT`. Ensures: the lookup of a token's embedding gives a virtual token its own,
and every other token what it gave before; calls without virtual tokens are unchanged.
"""

from typing import Any

import torch
from torch.fx import Node

from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Apply, Expr, Ref
from peftlang.ir.method import Method
from peftlang.passes.dataflow.reading import Reading
from peftlang.passes.occurrence import Located
from peftlang.passes.rewriting import Emission, Rewriting, SlotReads

PROMPT = "+prompt"
"""Slot of the virtual tokens' embeddings: ``[virtual, d_h]``, or ``[batch, virtual, d_h]``."""

FIRST_VIRTUAL = -1000
"""Id of the first virtual token; those after it count down.

Below zero, so that no comparison with a real id (padding, end of sequence, the largest) is true of
it; and away from the few negative numbers that stand for something elsewhere.
"""


def prompts(work: Rewriting) -> None:
    """Extend the lookups of token embeddings in graphs that have virtual tokens."""
    if PROMPT not in work.given:
        return
    sites = [s for active in work.active for s in active.plan.sites.values() if s.role == "prompt"]
    weights = {site.weight for site in sites if site.weight}
    for graph, located in zip(work.graphs, work.located, strict=True):
        if not weights & set(graph.facts.parameters.values()):
            continue
        reading, reads = Reading(graph), SlotReads(graph, work, prefix="peftlang_prompt")
        for weight in weights:
            for use in reading.using(weight, "embed"):
                _follow(located, use.call, _extend(use.call, reads))


def _follow(located: Located, lookup: Node, extended: Node) -> None:
    """What reads the embeddings reads those of virtual tokens with them; the lookup has its own."""
    for occurrence in (o for found in located.found.values() for o in found):
        if occurrence.site.role != "embed":
            held = occurrence.values.items()
            occurrence.values = {n: extended if v is lookup else v for n, v in held}


def _extend(lookup: Node, reads: SlotReads) -> Node:
    ids_node = lookup.all_input_nodes[0]
    table_node, value = reads(PROMPT), reads.value(PROMPT)
    with Emission(lookup.prev) as before:
        real = before.proxy(ids_node).clamp(min=0)
        lookup.replace_input_with(ids_node, real.node)
    with Emission(lookup) as after:
        ids: Any = after.proxy(ids_node)
        table: Any = after.proxy(table_node)
        found: Any = after.proxy(lookup)
        own = lookup.meta.get("example_value")
        if isinstance(own, torch.Tensor) and own.dtype != value.dtype:
            table = table.to(own.dtype)
        place = (FIRST_VIRTUAL - ids).clamp(min=0)
        if value.dim() == 3:
            rows = torch.ones_like(ids).cumsum(0) - 1
            place, table = place + rows * value.shape[1], table.flatten(0, 1)
        virtual = torch.nn.functional.embedding(place, table)
        both: Any = torch.where((ids < 0).unsqueeze(-1), virtual, found)
        both.node.meta["example_value"] = own
        after.replace(lookup, both)
    extended: Node = both.node
    return extended


def parts_before(method: Method) -> list[Expr]:
    """What a method puts before the sequence, in the order in which it stands there.

    Raises:
        PeftError: S411, the sequence is not kept as it is behind what is put before it.
    """
    found: list[Expr] = []
    for composition in method.compositions:
        found = [*_before(composition.value, method), *found]
    return found


def _before(value: Expr, method: Method) -> list[Expr]:
    if isinstance(value, Ref) and value.name == "h":
        return []
    if isinstance(value, Apply) and value.op == "concat":
        return [*value.args[:-1], *_before(value.args[-1], method)]
    raise PeftError(
        f"`{method.name}` changes the prompt otherwise than by putting something before it",
        code="S411",
        help="write `composition h = concat(..., h)`; to change the tokens' own embeddings, place "
        "a method at `embed`",
    )
