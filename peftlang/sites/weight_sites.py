"""The sites that are one weight each: norms, embeddings, heads, and every linear layer."""

from collections.abc import Iterable, Iterator

from torch.fx import Node

from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.ops import ACTIVATIONS, CASTS, argument, name_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.residual import joint
from peftlang.dataflow.weights import WeightUse
from peftlang.sites.sketch import Draft, Sketch, own_rows, width

# Right after a projection these make it a hidden layer (a pooler) rather than an output.
_SQUASHES = ACTIVATIONS - {"pow", "square", "exp"}


def weight_sites(sketch: Sketch) -> None:
    """Name single weights: norms, embeddings, heads, and every projection."""
    reading = sketch.reading
    for use in reading.uses:
        at = sketch.place(use.call)
        owner, size = reading.owner(use), {"d_h": use.width}
        if use.kind == "norm":
            dims = {"d_x": width(use.x), "d_h": width(use.h)}
            sketch.add(Draft("norm", owner, at, use, None, (use.weight,), dims))
        elif use.kind == "embed" and _is_first(reading, use):
            vocab = {"vocab": int(shape_of(use.w)[0])}
            sketch.add(Draft("embed", owner, at, use, None, (use.weight,), size | vocab))
        elif use.kind == "conv" and _is_patches(reading, use):
            sketch.add(Draft("embed", owner, at, use, None, (use.weight,), size))
        elif use.kind == "projection":
            head = _is_head(sketch, use)
            dims = {"d_x": width(use.x)} | size
            dims |= {"vocab": use.width} if head and _is_vocab(sketch, use) else {}
            role = "head" if head else "linear"
            sketch.add(Draft(role, owner, at, use, own_rows(use), (use.weight,), dims))


def _is_first(reading: Reading, use: WeightUse) -> bool:
    """Whether an embedding looks up what the caller passes, rather than positions.

    Of several that look up inputs and are summed (tokens and their types), the largest.
    """
    rivals = [u for u in reading.uses if u.kind == "embed" and _reads_input(reading, u)]
    same = [u for u in rivals if _summed(reading, u, use)]
    return use in rivals and max(same, key=lambda u: shape_of(u.w)[0]).weight == use.weight


def _is_vocab(sketch: Sketch, use: WeightUse) -> bool:
    return any(
        draft.role == "embed" and draft.dims.get("vocab") == use.width
        for draft in sketch.drafts.values()
    )


def _is_head(sketch: Sketch, use: WeightUse) -> bool:
    """Whether the model's output is this projection's, with no other after it."""
    if use.call in sketch.named:
        return False
    reading, flow = sketch.reading, sketch.reading.flow
    join = joint(flow, use.h, [use.x])
    if join and join.resid and flow.is_ancestor(flow.source(join.resid, CASTS), use.x):
        return False
    readers = list(flow.readers[use.h])
    if any(name_of(reader) in _SQUASHES for reader in readers):
        return False
    products = {n for a in reading.attentions for n in (a.call, a.product.softmax)}
    ends = {u.call for u in reading.uses if u.kind != "norm"} | products
    seen: set[Node] = set()
    while readers:
        node = readers.pop()
        if node in ends or _matrix_inside(reading, node):
            return False
        if node not in seen:
            seen.add(node)
            readers.extend(flow.readers[node])
    return any(node.op == "output" for node in seen)


def _reads_input(reading: Reading, use: WeightUse) -> bool:
    node = reading.flow.source(use.x)
    return node.op == "placeholder" and node in reading.flow.live


def _summed(reading: Reading, one: WeightUse, other: WeightUse) -> bool:
    return one is other or bool(_next_add(reading, one) & _next_add(reading, other))


def _next_add(reading: Reading, use: WeightUse) -> set[Node]:
    steps: Iterator[Node] = (node for node, _ in reading.flow.spine(use.h))
    first: Iterable[Node] = (n for n, _ in zip(steps, range(4), strict=False))
    return {n for n in first if name_of(n) == "add"}


def _is_patches(reading: Reading, use: WeightUse) -> bool:
    """Whether a convolution cuts the model's input into patches that do not overlap."""
    if not _reads_input(reading, use):
        return False
    strides = argument(use.call, 3, "stride", default=1)
    kernel = tuple(int(size) for size in shape_of(use.w)[2:])
    if isinstance(strides, int):
        strides = (strides,) * len(kernel)
    return isinstance(strides, tuple | list) and tuple(strides) == kernel


def _matrix_inside(reading: Reading, node: Node) -> bool:
    weights = [o for o in node.all_input_nodes if o in reading.flow.facts.parameters]
    return any(len(shape_of(w)) > 1 for w in weights)
