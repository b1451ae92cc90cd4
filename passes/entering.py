"""entering: soft tokens that come in at a layer in the middle of a stack.

Masks and positions are made before the layers run, so a sequence of token ids is made longer at the
model's input, with room in front for what comes in later. What comes in last stands furthest in
front, so that at every layer the room still to be filled is one run of first tokens, which nothing
may see (`hide`); where the sequence has no ids the room itself is made at the layer (`rooms`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Method
from peftlang.ir.plan import Plan, Site
from peftlang.ir.sizes import site_sizes
from peftlang.passes.dataflow.flow import Flow, is_float, shape_of
from peftlang.passes.dataflow.ops import name_of
from peftlang.passes.dataflow.reading import Reading
from peftlang.passes.dataflow.structure import is_inside
from peftlang.passes.dataflow.weights import WeightUse
from peftlang.passes.locate import PLACES_TABLE, locate
from peftlang.passes.occurrence import Occurrence
from peftlang.passes.prompts import parts_before
from peftlang.passes.rewriting import ActivePlan

_MIXERS = frozenset({"conv1d", "conv2d", "roll", "flip", "scan", "associative_scan"})
"""Operations, besides attention, that bring a token's value to others."""

_PICKS = frozenset({"gather", "index_select", "getitem", "embedding", "index", "take_along_dim"})
"""Operations whose first operand is what they take from, and the others say where."""


@dataclass(frozen=True)
class Entering:
    """Where soft tokens can come in besides the input.

    Attributes:
        sites: One of role ``prompt`` for each layer.
        tables: Learned positions, whose numbers tokens keep when others come in before them.
        reason: Why there are not more.
    """

    sites: list[Site] = field(default_factory=list)
    tables: list[Site] = field(default_factory=list)
    reason: str = ""


def entering(
    graphs: Sequence[CapturedGraph], inputs: Iterable[Site], sites: Sequence[Site]
) -> Entering:
    """The layers at which soft tokens can come in.

    Args:
        graphs: What ``capture`` returned for one forward of the whole model.
        inputs: The sites of role ``prompt`` at the model's input.
        sites: Every other site.
    """
    found = Entering()
    reasons = []
    for prompt in inputs:
        blocks = _layers(prompt, sites)
        places, tables, reason = _places(graphs, prompt, blocks, sites)
        found.sites.extend(places)
        found.tables.extend(tables)
        reasons.append(reason)
    return Entering(found.sites, found.tables, next(filter(None, reasons), ""))


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
    graphs: Sequence[CapturedGraph], prompt: Site, blocks: Sequence[Site], sites: Sequence[Site]
) -> tuple[list[Site], list[Site], str]:
    if prompt.weight is None:
        return [_site(prompt, block, blocks[-1]) for block in blocks], [], ""
    reading, found = _whole(graphs, blocks)
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
        id=f"{block.path}#prompt", role="prompt", path=block.path, stack=block.stack,
        side=prompt.side, layer=block.layer, weight=prompt.weight, sees=block.sees,
        anchors=(block.anchors[0], last.anchors[-1]), dims={"d_h": block.dims["d_x"], **layers},
    )  # fmt: skip


def _whole(
    graphs: Sequence[CapturedGraph], blocks: Sequence[Site]
) -> tuple[Reading | None, list[Occurrence]]:
    """The graph in which every layer runs once on ``[batch, tokens, d]``, and where."""
    for graph in graphs:
        found = locate(graph, blocks).found
        each = [found[block.id] for block in blocks if len(found.get(block.id, ())) == 1]
        runs = [one for (one,) in each if len(shape_of(one.values.get("x", one.call))) == 3]
        if blocks and len(runs) == len(blocks) and all("x" in one.values for one in runs):
            return Reading(graph), runs
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
            id=f"{use.weight}#{PLACES_TABLE}", role=PLACES_TABLE, path=reading.owner(use),
            side=prompt.side, weight=use.weight, anchors=(use.weight,), dims={"d_h": use.width},
        )
        for use in found.values()
        if use.weight != prompt.weight and counts(flow, use.x, int(shape_of(use.w)[0]))
    ]  # fmt: skip
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


# What comes in where


@dataclass(frozen=True)
class Entry:
    """Soft tokens that one placement of an adapter puts before the sequence at one site."""

    adapter: str
    label: str
    site: Site
    count: int


def soft_tokens(method: Method, args: Mapping[str, Scalar], site: Site) -> int:
    """How many soft tokens a method puts before the sequence at a site."""
    sizes = site_sizes(method, args, site)
    return sum(part.type.dims[0].evaluate(sizes) for part in parts_before(method))


def entries(active: Iterable[ActivePlan]) -> Iterator[Entry]:
    """What the active adapters put before sequences, in layers and at the input."""
    for adapter in active:
        for placement in adapter.plan.placements:
            for site in (adapter.plan.sites[name] for name in placement.sites):
                if site.role == "prompt":
                    method = adapter.plan.uses[placement.label].method
                    count = soft_tokens(method, placement.args, site)
                    yield Entry(adapter.name, placement.label, site, count)


def later_at(active: Iterable[ActivePlan], site: Site) -> int:
    """How many soft tokens come in only behind what a site reads.

    A site in no layer is taken to be before all of them where it makes the sequence, and behind
    them elsewhere.
    """
    if site.layer is None and site.role not in {"embed", PLACES_TABLE}:
        return 0
    layer = -1 if site.layer is None else site.layer
    return sum(
        entry.count
        for entry in entries(active)
        if entry.site.layer is not None and entry.site.layer > layer and _reads(site, entry.site)
    )


def _reads(site: Site, prompt: Site) -> bool:
    """Whether a site's tokens are those that a prompt comes before."""
    return site.stack == prompt.stack if site.layer is not None else site.side == prompt.side
