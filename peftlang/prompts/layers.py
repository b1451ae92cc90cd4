"""The layers in the middle of a stack at which soft tokens can come in."""

from collections.abc import Sequence

import torch
from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.capture.facts import VALUE
from peftlang.dataflow.flow import Flow, is_float, shape_of
from peftlang.dataflow.ops import name_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import is_inside
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Plan, Site
from peftlang.ir.soft_tokens import POSITION_TABLE
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Occurrence

_MIXERS = frozenset({"conv1d", "conv2d", "roll", "flip", "scan", "associative_scan"})
"""Operations, besides attention, that bring a token's value to others."""

_PICKS = frozenset({"gather", "index_select", "getitem", "embedding", "index", "take_along_dim"})
"""Operations whose first operand is what they take from, and the others say where."""


def entered_layers(
    graph: CapturedGraph, prompt: Site, sites: Sequence[Site]
) -> tuple[list[Site], list[Site], str]:
    """The layers at which soft tokens can come in, and the tables of positions before them.

    Args:
        graph: One call of the whole model.
        prompt: A site of role ``prompt`` at the model's input.
        sites: Every other site.

    Returns:
        One site of role ``prompt`` for each layer; the tables; why there are not more, or "".
    """
    return _places(graph, prompt, _layers(prompt, sites), sites)


def _layers(prompt: Site, sites: Sequence[Site]) -> list[Site]:
    """The layers that read what a prompt at the input lengthens, in order."""
    blocks = [s for s in sites if s.role == "block" and s.layer is not None and s.stack is not None]
    if prompt.stack is not None:
        own = [block for block in blocks if block.stack == prompt.stack]
    else:
        own = [b for b in blocks if b.side == prompt.side and is_inside(b.path, prompt.path)]
    own.sort(key=lambda block: block.layer or 0)
    whole = [block.layer for block in own] == list(range(len(own)))
    return own if whole and len({block.stack for block in own}) == 1 else []


def _places(
    graph: CapturedGraph, prompt: Site, blocks: Sequence[Site], sites: Sequence[Site]
) -> tuple[list[Site], list[Site], str]:
    if prompt.weight is None:
        return [_site(prompt, block, blocks[-1]) for block in blocks], [], ""
    reading, found = _whole(graph, blocks)
    if reading is None:
        return [], [], "its layers are not one list that runs from the first to the last"
    first = found[0].values["x"]
    tables, unknown = _tables(reading, first, prompt)
    if unknown is not None:
        return [], [], f"`{unknown}` adds positions, and is no look-up in a table"
    cores = {s.layer for s in sites if s.role == "attn.core" and s.stack == blocks[0].stack}
    made: list[Site] = []
    for block, occurrence in zip(blocks, found, strict=True):
        reason = _seen_otherwise(reading, first, occurrence.values["x"], block, cores)
        if reason:
            return made, tables, reason
        made.append(_site(prompt, block, block))
    return made, tables, ""


def _site(prompt: Site, block: Site, last: Site) -> Site:
    layers = {"layers": block.dims["layers"]} if "layers" in block.dims else {}
    return Site(
        id=f"{block.path}#prompt",
        role="prompt",
        path=block.path,
        stack=block.stack,
        side=prompt.side,
        layer=block.layer,
        weight=prompt.weight,
        sees=block.sees,
        anchors=(block.anchors[0], last.anchors[-1]),
        dims={"d_h": block.dims["d_x"], **layers},
    )


def _whole(graph: CapturedGraph, blocks: Sequence[Site]) -> tuple[Reading | None, list[Occurrence]]:
    """Where every layer runs, if each does once, on ``[batch, tokens, d]``."""
    found = locate(graph, blocks).found
    each = [found[block.id] for block in blocks if len(found.get(block.id, ())) == 1]
    runs = [one for (one,) in each if len(shape_of(one.values.get("x", one.call))) == 3]
    if blocks and len(runs) == len(blocks) and all("x" in one.values for one in runs):
        return Reading.of(graph), runs
    return None, []


def _seen_otherwise(
    reading: Reading, first: Node, x: Node, block: Site, cores: set[int | None]
) -> str:
    """Why tokens before layer ``block`` could not be kept from seeing room in front; or ""."""
    missing = [layer for layer in range(block.layer or 0) if layer not in cores]
    if missing:
        return f"layer {missing[0]} has no attention, so what it does with more tokens is not known"
    order = reading.flow.order
    between = (n for n in order if order[first] < order[n] < order[x] and name_of(n) in _MIXERS)
    mixer = next(between, None)
    return f"`{mixer}` before layer {block.layer} reads several tokens at once" if mixer else ""


# Positions


def _tables(reading: Reading, x: Node, prompt: Site) -> tuple[list[Site], Node | None]:
    """The tables of positions that are added on the way to ``x``, or what else adds some."""
    flow = reading.flow
    lookups = {use.call: use for use in reading.uses if use.kind == "embed"}
    pending, seen = [x], {x}
    found: dict[str, WeightUse] = {}
    while pending:
        node = pending.pop()
        if node in lookups:
            found[lookups[node].weight] = lookups[node]
            continue
        if _is_of_places(flow, node, x) and lookups.keys().isdisjoint(flow.ancestors([node])):
            return [], node
        pending += [other for other in flow.operands[node] if other not in seen]
        seen.update(flow.operands[node])
    tables = [
        Site(
            id=f"{use.weight}#{POSITION_TABLE}",
            role=POSITION_TABLE,
            path=reading.owner(use),
            side=prompt.side,
            weight=use.weight,
            anchors=(use.weight,),
            dims={"d_h": use.width},
        )
        for use in found.values()
        if use.weight != prompt.weight and counts(flow, use.x, int(shape_of(use.w)[0]))
    ]
    return tables, None


def _is_of_places(flow: Flow, node: Node, x: Node) -> bool:
    """Whether a value has a vector for each token: positions, where it is made of no ids."""
    return is_float(node) and not flow.is_weight(node) and shape_of(node)[-2:] == shape_of(x)[-2:]


def counts(flow: Flow, node: Node, rows: int = 0) -> bool:
    """Whether whole numbers are places of tokens, rather than kinds of them.

    Args:
        flow: The graph's flow.
        node: The numbers.
        rows: Of the table that they are looked up in: a stored list of places is no longer than it,
            and one of kinds has few to name.
    """
    pending = [node]
    while pending:
        node = pending.pop()
        if name_of(node) in {"arange", "cumsum"}:
            return True
        if node in flow.facts.buffers:
            if shape_of(node) and int(shape_of(node)[-1]) <= rows:
                return True
        elif node.op == "placeholder":
            if "position" in node.name:
                return True
        else:
            operands = flow.operands[node]
            pending += operands[:1] if name_of(node) in _PICKS else operands
    return False


# What a plan needs besides its own sites


def with_beside(plan: Plan, sites: Sequence[Site], tables: Sequence[Site]) -> Plan:
    """A plan with the sites at which soft tokens come in, and those kept from seeing their room."""
    beside: dict[str, Site] = {}
    for prompt in plan.sites.values():
        if prompt.role != "prompt" or prompt.layer is None or prompt.weight is None:
            continue
        for site in sites:
            if site.stack == prompt.stack and site.layer is not None:
                enters = site.role == "block" and site.layer == prompt.layer
                hides = site.role == "attn.core" and site.layer < prompt.layer
                beside.update({site.id: site} if enters or hides else {})
        beside.update({table.id: table for table in tables if table.side == prompt.side})
    return plan.model_copy(update={"beside": beside}) if beside else plan


def turned(graph: CapturedGraph, stack: str) -> list[tuple[Node, Node]]:
    """Where places of a stack's tokens become numbers for angles: reader and places."""
    around = stack.rpartition(".")[0]
    waves = [n for n in graph.graph.nodes if name_of(n) == "cos"]
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
    value = node.meta.get(VALUE)
    return isinstance(value, torch.Tensor) and value.dtype in {torch.int64, torch.int32}
