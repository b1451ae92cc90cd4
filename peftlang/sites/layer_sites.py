"""The stacks and layers that a model's branches are in."""

from torch.fx import Node

from peftlang.dataflow.causality import is_causal
from peftlang.dataflow.ops import CASTS, VIEWS
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import Structure, Sublayer, item_path, tower_names
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Sees
from peftlang.sites.sketch import Draft, Found, Sketch, width


def structure_of(sketch: Sketch) -> Structure:
    """The stacks of layers, and on which side of the model each is."""
    names = sketch.reading.graph.facts.names
    structure = Structure(names, [Sublayer(b.path, b.role, b.anchor) for b in sketch.branches])
    structure.sides.update(_sides(sketch, structure))
    return structure


def _sides(sketch: Sketch, structure: Structure) -> dict[str, str]:
    stacks = list(dict.fromkeys(_stack_of(structure, b) for b in sketch.branches))
    known = [stack for stack in stacks if stack is not None]
    sides: dict[str, str] = {}
    for branch in sketch.branches:
        reader = _stack_of(structure, branch)
        if branch.role == "cross_attn" and branch.attention and reader is not None:
            source = _stack_before(sketch, structure, branch)
            if source not in {None, reader}:
                sides |= {reader: "decoder", str(source): "encoder"}
    rest = [stack for stack in known if stack not in sides]
    if len(known) > 1:
        names = tower_names(known)
        return sides | {stack: names[stack] for stack in rest}
    for stack in rest:
        products = [
            b.attention for b in sketch.branches if b.attention and _stack_of(structure, b) == stack
        ]
        if products:
            causal = is_causal(sketch.reading.flow, products[0])
            sides[stack] = "decoder" if causal else "encoder"
    return sides


def seen_keys(sketch: Sketch, structure: Structure) -> dict[str, Sees]:
    """For each stack, which keys its first self-attention lets a query see."""
    found: dict[str, Sees] = {}
    for branch in sketch.branches:
        stack = _stack_of(structure, branch)
        if branch.role != "attn" or branch.attention is None or stack in {None, *found}:
            continue
        assert stack is not None
        if is_causal(sketch.reading.flow, branch.attention):
            found[stack] = "earlier"
        else:
            found[stack] = "masked" if branch.attention.product.mask else "all"
    return found


def _stack_of(structure: Structure, branch: Found) -> str | None:
    return structure.place(branch.path)[0]


def _stack_before(sketch: Sketch, structure: Structure, branch: Found) -> str | None:
    """The stack whose stream the keys of a cross-attention are made from."""
    assert branch.attention is not None
    totals = {b.joint.total: b for b in sketch.branches}
    met, _ = sketch.reading.flow.backward(branch.attention.k, set(totals))
    return _stack_of(structure, totals[met[-1]]) if met else None


def layer_sites(sketch: Sketch, structure: Structure) -> None:
    """Name each layer."""
    layers: dict[tuple[str, int], list[Found]] = {}
    for branch in sketch.branches:
        stack, layer = structure.place(branch.path)
        if stack is not None and layer is not None:
            layers.setdefault((stack, layer), []).append(branch)
    for (stack, layer), branches in layers.items():
        branches.sort(key=lambda b: b.at)
        path = item_path(stack, layer)
        first, last = branches[0], branches[-1]
        norm = post_norm(sketch.reading, last.joint.total, path)
        anchors = (first.anchor, last.anchor) + ((norm.weight,) if norm else ())
        h = norm.h if norm else last.joint.total
        assert first.joint.resid is not None
        dims = {"d_x": width(first.joint.resid), "d_h": width(h)}
        at = sketch.place(h)
        sketch.add(Draft("block", path, at, None, None, anchors, dims))


def post_norm(reading: Reading, total: Node, path: str) -> WeightUse | None:
    """The norm over a layer's last sum, if its weight is the layer's own."""
    norms = [
        use
        for use in reading.uses
        if use.kind == "norm"
        and use.weight.startswith(path + ".")
        and reading.flow.source(use.x, CASTS | VIEWS) is total
    ]
    return norms[-1] if norms else None
