"""The sites of residual branches other than attention: feed-forwards, experts, and others."""

from peftlang.dataflow.experts import expert_parts, routers
from peftlang.dataflow.feedforward import Branch, FeedForward, feed_forward, other_branches
from peftlang.dataflow.ops import CASTS
from peftlang.dataflow.residual import Joint
from peftlang.dataflow.slices import as_rows
from peftlang.dataflow.structure import common_path
from peftlang.dataflow.weights import WeightUse
from peftlang.sites.sketch import Draft, Found, Sketch, last_weight, width


def feed_forward_sites(sketch: Sketch, use: WeightUse) -> None:
    """Name what takes part in a feed-forward branch that ends with a projection, if it is one."""
    reading = sketch.reading
    if use.call in sketch.named:
        return
    found = feed_forward(reading.flow, use, reading.by_result)
    if found is None:
        return
    for inner in found.inner:
        rows = as_rows(inner.rows, inner.use.width) if inner.rows else None
        reading.rows[(inner.use.call, inner.part)] = rows
        sketch.add_projection(f"ffn.{inner.part}", inner.use)
    sketch.add_projection("ffn.down", use)
    _whole(sketch, found)


def _whole(sketch: Sketch, found: FeedForward) -> None:
    reading = sketch.reading
    down, join = found.down, found.joint
    owner = reading.owner(down)
    act = {"d_h": width(down.x)}
    sketch.add(Draft("ffn.act", owner, sketch.place(down.x), None, None, (down.weight,), act))
    path = common_path([*(reading.owner(part.use) for part in found.inner), owner])
    anchor = last_weight(reading, down.weight, down.h, join)
    at = sketch.place(join.add)
    dims = {"d_x": width(found.x), "d_h": width(join.h)}
    anchors = tuple(dict.fromkeys((anchor, down.weight)))
    sketch.add(Draft("ffn", path, at, None, None, anchors, dims))
    sketch.branches.append(Found(path, "ffn", join, at, anchor))
    _experts(sketch, join)


def other_sites(sketch: Sketch) -> None:
    """Name the branches that are neither attention nor a feed-forward of projections."""
    taken = [node for b in sketch.branches for node in (b.joint.add, b.joint.total)]
    for found in other_branches(sketch.reading.flow, taken):
        _other(sketch, found)


def _other(sketch: Sketch, found: Branch) -> None:
    join = found.joint
    path = common_path(name.rpartition(".")[0] for name in found.weights)
    at, role = sketch.place(join.add), "ffn" if found.token_wise else None
    if role:
        dims = {"d_x": width(found.x), "d_h": width(join.h)}
        sketch.add(Draft(role, path, at, None, None, (found.weights[-1],), dims))
        _experts(sketch, join)
    sketch.branches.append(Found(path, role, join, at, found.weights[-1]))


def _experts(sketch: Sketch, join: Joint) -> None:
    reading = sketch.reading
    assert join.resid is not None
    first = reading.flow.order[reading.flow.source(join.resid, CASTS)]
    parts = expert_parts(reading.flow, join.h, first)
    for found in parts:
        use, at = found.use, sketch.place(found.use.call)
        for expert in range(found.count):
            dims = {"d_x": found.d_x, "d_h": found.d_h}
            dims |= {"expert": expert, "experts": found.count}
            owner = use.weight.rpartition(".")[0]
            role = f"expert.{found.part}"
            sketch.add(Draft(role, owner, at, use, found.rows, (use.weight,), dims))
    for use in routers(reading, parts, join.h):
        sketch.add_projection("router", use)
