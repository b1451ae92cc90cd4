"""The sites of attention: projections, products, branches."""

from torch.fx import Node

from peftlang.dataflow.attention import Attention
from peftlang.dataflow.feedforward import feed_forward
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.ops import CASTS
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.residual import Joint, joint
from peftlang.dataflow.slices import as_rows, rows_reaching
from peftlang.dataflow.structure import common_path
from peftlang.dataflow.weights import WeightUse
from peftlang.sites.sketch import Draft, Found, Sketch, last_weight, rows_within, width

PARTS = ("q", "k", "v")


def attention_sites(sketch: Sketch, found: Attention) -> None:
    """Name what takes part in one attention product."""
    reading = sketch.reading
    parts = _without_branch_ends(reading, found)
    if not all(parts.values()):
        return
    last = found.outs[0] if found.outs else None
    start = last.h if last else found.call
    x = parts["q"][0].x
    join = joint(reading.flow, start, [use.x for use in parts["q"]])
    prefix = "cross_attn" if _is_cross(reading, parts, join) else "attn"
    heads = _head_dims(reading, found, parts)
    for part, uses in parts.items():
        for use in uses:
            sketch.add_projection(f"{prefix}.{part}", use, heads)
    for use in found.outs:
        sketch.add_projection(f"{prefix}.o", use, heads)
    owners = [reading.owner(use) for uses in parts.values() for use in uses]
    around = owners + [reading.owner(use) for use in found.outs]
    first = parts["q"][0].weight
    at = sketch.place(found.call)
    dims = {"d_x": width(x), "d_h": heads["heads"] * heads["d_head"]} | heads
    core = common_path(owners if len(set(owners)) > 1 else around)
    sketch.add(Draft(f"{prefix}.core", core, at, None, None, (first,), dims))
    path = common_path(around)
    anchor = last.weight if last else parts["v"][0].weight
    if join is None:
        return
    anchor = last_weight(reading, anchor, start, join)
    dims = {"d_x": width(x), "d_h": width(join.h)} | heads
    at = sketch.place(join.add)
    sketch.add(Draft(prefix, path, at, None, None, (anchor, first), dims))
    sketch.branches.append(Found(path, prefix, join, at, anchor, found))


def _without_branch_ends(reading: Reading, found: Attention) -> dict[str, list[WeightUse]]:
    """The projections of q, k and v; not those that end a branch of their own.

    Where attention reads a stream as it is, the walk back from its operands comes to the branch
    before it.
    """
    outs = {use.call for a in reading.attentions for use in a.outs}

    def ends_branch(use: WeightUse) -> bool:
        return use.call in outs or feed_forward(reading.flow, use, reading.by_result) is not None

    return {part: [u for u in found.sources[part] if not ends_branch(u)] for part in PARTS}


def _is_cross(reading: Reading, parts: dict[str, list[WeightUse]], join: Joint | None) -> bool:
    flow = reading.flow
    query, key = parts["q"][0].x, parts["k"][-1].x
    if query is key:
        return False
    if join and join.resid:
        stream = flow.source(join.resid, CASTS)
        if flow.is_ancestor(stream, query):
            return not flow.is_ancestor(stream, key)
    return True


def _head_dims(
    reading: Reading, found: Attention, parts: dict[str, list[WeightUse]]
) -> dict[str, int]:
    """heads, kv_heads, d_head; on the way, which rows of each projection make which part."""
    counts = dict.fromkeys(PARTS, 0)
    shared: dict[Node, list[str]] = {}
    for part, uses in parts.items():
        for use in uses:
            shared.setdefault(use.call, []).append(part)
    for call, names in shared.items():
        use = reading.by_result[call]
        sinks = [found.parts[name] for name in names]
        reached = rows_reaching(reading.flow, use.h, sinks)
        for position, name in enumerate(names):
            rows = as_rows(reached[position], use.width) if reached else None
            reading.rows[(call, name)] = rows_within(rows, use)
            counts[name] += rows.count if rows else use.width
    d_head = width(found.q)
    heads = max(counts["q"] // d_head, 1)
    return {"heads": heads, "kv_heads": max(counts["k"] // _keys_width(found), 1), "d_head": d_head}


def _keys_width(found: Attention) -> int:
    shape = shape_of(found.k)
    return int(shape[-2] if found.layout["k"].endswith("dt") else shape[-1])
