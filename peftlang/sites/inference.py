"""Names for the places of a model, by what they do in its dataflow.

Requires: the graphs of a whole forward, captured with concrete sizes, with attention in view
(`decompose` writes out what hides it). Ensures: the same sites for the same model, whatever the
names of its modules; every site can be found again by `locate` in any other graph of the model.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.graph.attention import Attention
from peftlang.graph.causality import is_causal
from peftlang.graph.experts import expert_parts, routers
from peftlang.graph.feedforward import (
    Branch,
    FeedForward,
    feed_forward,
    other_branches,
)
from peftlang.graph.flow import shape_of
from peftlang.graph.ops import ACTIVATIONS, CASTS, VIEWS, name_of
from peftlang.graph.reading import Reading
from peftlang.graph.residual import Joint, joint
from peftlang.graph.slices import as_rows, rows_reaching
from peftlang.graph.structure import (
    Structure,
    Sublayer,
    common_path,
    item_path,
    tower_names,
)
from peftlang.graph.weights import WeightUse
from peftlang.ir.plan import Rows, Sees, Site

PARTS = ("q", "k", "v")
# Right after a projection these make it a hidden layer (a pooler) rather than an output.
_SQUASHES = ACTIVATIONS - {"pow", "square", "exp"}


@dataclass
class Draft:
    """A site before its place among the layers is known."""

    role: str
    path: str
    at: tuple[int, int]
    use: WeightUse | None = None
    rows: Rows | None = None
    anchors: tuple[str, ...] = ()
    dims: dict[str, int] = field(default_factory=dict)


@dataclass
class Found:
    """A residual branch with the weights that find it again: the last of it, and its first."""

    path: str
    role: str | None
    joint: Joint
    at: tuple[int, int]
    anchor: str
    reading: Reading
    attention: Attention | None = None


def find_sites(graphs: Sequence[CapturedGraph]) -> list[Site]:
    """Every site of the model, in the order in which they run.

    Args:
        graphs: What `capture` returned for one forward of the whole model.
    """
    if not graphs:
        return []
    inference = _Inference(graphs)
    return inference.sites()


class _Inference:
    def __init__(self, graphs: Sequence[CapturedGraph]) -> None:
        self.names = graphs[0].facts.names
        self.readings = [Reading.of(graph) for graph in graphs]
        self.drafts: dict[str, Draft] = {}
        self.branches: list[Found] = []
        self.named: set[tuple[int, Node]] = set()
        self.sees: dict[str, Sees] = {}

    def sites(self) -> list[Site]:
        for index, reading in enumerate(self.readings):
            for attention in reading.attentions:
                self._attention(index, reading, attention)
            for use in list(reading.by_result.values()):
                self._feed_forward(index, reading, use)
            self._others(index, reading)
        structure = self._structure()
        self._blocks(structure)
        self.sees = self._seen(structure)
        for index, reading in enumerate(self.readings):
            self._weights(index, reading)
        drafts = sorted(self.drafts.items(), key=lambda item: item[1].at)
        return [self._site(key, draft, structure) for key, draft in drafts]

    def _add(self, draft: Draft) -> None:
        """Keep a draft, once for each place: a layer that runs twice is one site."""
        key = f"{draft.path}#{draft.role}"
        if "expert" in draft.dims:
            key = f"{key}[{draft.dims['expert']}]"
        taken = self.drafts.get(key)
        if taken and (taken.anchors, taken.rows) != (draft.anchors, draft.rows):
            own = draft.anchors[0].removeprefix(draft.path + ".").removesuffix(".weight")
            rows = f":{draft.rows.runs[0][0]}" if draft.rows else ""
            key = f"{key}[{own}{rows}]"
        self.drafts.setdefault(key, draft)

    # Attention

    def _attention(self, index: int, reading: Reading, found: Attention) -> None:
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
                self._projection(index, reading, f"{prefix}.{part}", use, heads)
        for use in found.outs:
            self._projection(index, reading, f"{prefix}.o", use, heads)
        owners = [reading.owner(use) for uses in parts.values() for use in uses]
        around = owners + [reading.owner(use) for use in found.outs]
        first = parts["q"][0].weight
        at = (index, reading.flow.order[found.call])
        width = heads["heads"] * heads["d_head"]
        dims = {"d_x": _width(x), "d_h": width} | heads
        core = common_path(owners if len(set(owners)) > 1 else around)
        self._add(Draft(f"{prefix}.core", core, at, None, None, (first,), dims))
        path = common_path(around)
        anchor = last.weight if last else parts["v"][0].weight
        if join is None:
            return
        anchor = _last_weight(reading, anchor, start, join)
        dims = {"d_x": _width(x), "d_h": _width(join.h)} | heads
        at = (index, reading.flow.order[join.add])
        self._add(Draft(prefix, path, at, None, None, (anchor, first), dims))
        self.branches.append(Found(path, prefix, join, at, anchor, reading, found))

    def _projection(
        self, index: int, reading: Reading, role: str, use: WeightUse, heads: dict[str, int]
    ) -> None:
        rows = reading.rows.get((use.call, role.rpartition(".")[2]), _own_rows(use))
        self.named.add((index, use.call))
        count = rows.count if rows else use.width
        dims = {"d_x": _width(use.x), "d_h": count}
        owner = reading.owner(use)
        at = (index, reading.flow.order[use.call])
        self._add(Draft(role, owner, at, use, rows, (use.weight,), dims | heads))

    # Feed-forward branches and others

    def _feed_forward(self, index: int, reading: Reading, use: WeightUse) -> None:
        if (index, use.call) in self.named:
            return
        found = feed_forward(reading.flow, use, reading.by_result)
        if found is None:
            return
        for inner in found.inner:
            rows = as_rows(inner.rows, inner.use.width) if inner.rows else None
            reading.rows[(inner.use.call, inner.part)] = rows
            self._projection(index, reading, f"ffn.{inner.part}", inner.use, {})
        self._projection(index, reading, "ffn.down", use, {})
        self._whole_feed_forward(index, reading, found)

    def _whole_feed_forward(self, index: int, reading: Reading, found: FeedForward) -> None:
        order = reading.flow.order
        down, join = found.down, found.joint
        owner = reading.owner(down)
        act = {"d_h": _width(down.x)}
        self._add(Draft("ffn.act", owner, (index, order[down.x]), None, None, (down.weight,), act))
        path = common_path([*(reading.owner(part.use) for part in found.inner), owner])
        anchor = _last_weight(reading, down.weight, down.h, join)
        at = (index, order[join.add])
        dims = {"d_x": _width(found.x), "d_h": _width(join.h)}
        anchors = tuple(dict.fromkeys((anchor, down.weight)))
        self._add(Draft("ffn", path, at, None, None, anchors, dims))
        self.branches.append(Found(path, "ffn", join, at, anchor, reading))
        self._experts(index, reading, join)

    def _others(self, index: int, reading: Reading) -> None:
        mine = [b.joint for b in self.branches if b.reading is reading]
        taken = [node for j in mine for node in (j.add, j.total)]
        for found in other_branches(reading.flow, taken):
            self._other(index, reading, found)

    def _other(self, index: int, reading: Reading, found: Branch) -> None:
        join = found.joint
        path = common_path(name.rpartition(".")[0] for name in found.weights)
        at, role = (index, reading.flow.order[join.add]), "ffn" if found.token_wise else None
        if role:
            dims = {"d_x": _width(found.x), "d_h": _width(join.h)}
            self._add(Draft(role, path, at, None, None, (found.weights[-1],), dims))
            self._experts(index, reading, join)
        self.branches.append(Found(path, role, join, at, found.weights[-1], reading))

    def _experts(self, index: int, reading: Reading, join: Joint) -> None:
        assert join.resid is not None
        first = reading.flow.order[reading.flow.source(join.resid, CASTS)]
        parts = expert_parts(reading.flow, join.h, first)
        for found in parts:
            use, at = found.use, (index, reading.flow.order[found.use.call])
            for expert in range(found.count):
                dims = {"d_x": found.d_x, "d_h": found.d_h}
                dims |= {"expert": expert, "experts": found.count}
                owner = use.weight.rpartition(".")[0]
                role = f"expert.{found.part}"
                self._add(Draft(role, owner, at, use, found.rows, (use.weight,), dims))
        for use in routers(reading, parts, join.h):
            self._projection(index, reading, "router", use, {})

    # Layers

    def _structure(self) -> Structure:
        structure = Structure(
            self.names, [Sublayer(b.path, b.role, b.anchor) for b in self.branches]
        )
        structure.sides.update(self._sides(structure))
        return structure

    def _sides(self, structure: Structure) -> dict[str, str]:
        stacks = list(dict.fromkeys(self._stack_of(structure, b) for b in self.branches))
        known = [stack for stack in stacks if stack is not None]
        sides: dict[str, str] = {}
        for branch in self.branches:
            reader = self._stack_of(structure, branch)
            if branch.role == "cross_attn" and branch.attention and reader is not None:
                source = self._stack_before(structure, branch)
                if source not in {None, reader}:
                    sides |= {reader: "decoder", str(source): "encoder"}
        rest = [stack for stack in known if stack not in sides]
        if len(known) > 1:
            names = tower_names(known)
            return sides | {stack: names[stack] for stack in rest}
        for stack in rest:
            products = [
                (b.reading, b.attention)
                for b in self.branches
                if b.attention and self._stack_of(structure, b) == stack
            ]
            if products:
                causal = is_causal(products[0][0].flow, products[0][1])
                sides[stack] = "decoder" if causal else "encoder"
        return sides

    def _seen(self, structure: Structure) -> dict[str, Sees]:
        """For each stack, which keys its first self-attention lets a query see."""
        found: dict[str, Sees] = {}
        for branch in self.branches:
            stack = self._stack_of(structure, branch)
            if branch.role != "attn" or branch.attention is None or stack in {None, *found}:
                continue
            assert stack is not None
            if is_causal(branch.reading.flow, branch.attention):
                found[stack] = "earlier"
            else:
                found[stack] = "masked" if branch.attention.product.mask else "all"
        return found

    def _stack_of(self, structure: Structure, branch: Found) -> str | None:
        return structure.place(branch.path)[0]

    def _stack_before(self, structure: Structure, branch: Found) -> str | None:
        """The stack whose stream the keys of a cross-attention are made from."""
        assert branch.attention is not None
        totals = {b.joint.total: b for b in self.branches if b.reading is branch.reading}
        met, _ = branch.reading.flow.backward(branch.attention.k, set(totals))
        return self._stack_of(structure, totals[met[-1]]) if met else None

    def _blocks(self, structure: Structure) -> None:
        layers: dict[tuple[str, int], list[Found]] = {}
        for branch in self.branches:
            stack, layer = structure.place(branch.path)
            if stack is not None and layer is not None:
                layers.setdefault((stack, layer), []).append(branch)
        for (stack, layer), branches in layers.items():
            branches.sort(key=lambda b: b.at)
            path = item_path(stack, layer)
            first, last = branches[0], branches[-1]
            norm = post_norm(last.reading, last.joint.total, path)
            anchors = (first.anchor, last.anchor) + ((norm.weight,) if norm else ())
            h = norm.h if norm else last.joint.total
            assert first.joint.resid is not None
            dims = {"d_x": _width(first.joint.resid), "d_h": _width(h)}
            at = (last.at[0], last.reading.flow.order[h])
            self._add(Draft("block", path, at, None, None, anchors, dims))

    # Single weights

    def _weights(self, index: int, reading: Reading) -> None:
        for use in reading.uses:
            at = (index, reading.flow.order[use.call])
            owner, size = reading.owner(use), {"d_h": use.width}
            if use.kind == "norm":
                dims = {"d_x": _width(use.x), "d_h": _width(use.h)}
                self._add(Draft("norm", owner, at, use, None, (use.weight,), dims))
            elif use.kind == "embed" and self._is_first(reading, use):
                vocab = {"vocab": int(shape_of(use.w)[0])}
                self._add(Draft("embed", owner, at, use, None, (use.weight,), size | vocab))
            elif use.kind == "conv" and _is_patches(reading, use):
                self._add(Draft("embed", owner, at, use, None, (use.weight,), size))
            elif use.kind == "projection":
                head = self._is_head(index, reading, use)
                dims = {"d_x": _width(use.x)} | size
                dims |= {"vocab": use.width} if head and self._is_vocab(use) else {}
                role = "head" if head else "linear"
                self._add(Draft(role, owner, at, use, _own_rows(use), (use.weight,), dims))

    def _is_first(self, reading: Reading, use: WeightUse) -> bool:
        """Whether an embedding looks up what the caller passes, rather than positions.

        Of several that look up inputs and are summed (tokens and their types), the largest.
        """
        rivals = [u for u in reading.uses if u.kind == "embed" and _reads_input(reading, u)]
        same = [u for u in rivals if _summed(reading, u, use)]
        return use in rivals and max(same, key=lambda u: shape_of(u.w)[0]).weight == use.weight

    def _is_vocab(self, use: WeightUse) -> bool:
        return any(
            draft.role == "embed" and draft.dims.get("vocab") == use.width
            for draft in self.drafts.values()
        )

    def _is_head(self, index: int, reading: Reading, use: WeightUse) -> bool:
        """Whether the model's output is this projection's, with no other after it."""
        if (index, use.call) in self.named:
            return False
        if any(later.by_result for later in self.readings[index + 1 :]):
            return False
        flow = reading.flow
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

    def _site(self, key: str, draft: Draft, structure: Structure) -> Site:
        stack, layer = structure.place(draft.path)
        layers = structure.layers(stack)
        use = draft.use
        return Site(
            id=key,
            role=draft.role,
            path=draft.path,
            stack=stack,
            side=structure.side(draft.path),
            layer=layer,
            weight=use.weight if use else None,
            bias=use.bias if use else None,
            transposed=bool(use and use.transposed),
            rows=draft.rows,
            anchors=draft.anchors,
            sees=self.sees.get(stack) if stack else None,
            dims=draft.dims | ({"layers": layers} if layers else {}),
        )


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
            reading.rows[(call, name)] = _within(rows, use)
            counts[name] += rows.count if rows else use.width
    d_head = _width(found.q)
    heads = max(counts["q"] // d_head, 1)
    return {"heads": heads, "kv_heads": max(counts["k"] // _keys_width(found), 1), "d_head": d_head}


def _keys_width(found: Attention) -> int:
    shape = shape_of(found.k)
    return int(shape[-2] if found.layout["k"].endswith("dt") else shape[-1])


def _within(rows: Rows | None, use: WeightUse) -> Rows | None:
    """Rows of the whole parameter, where the graph applies a slice of it."""
    if use.rows is None:
        return rows
    start = use.rows[0]
    runs = rows.runs if rows else ((0, use.width, 1),)
    size = int(shape_of(use.w)[0])
    return Rows(runs=tuple((a + start, b + start, step) for a, b, step in runs), size=size)


def _own_rows(use: WeightUse) -> Rows | None:
    return _within(None, use)


def _last_weight(reading: Reading, anchor: str, start: Node, join: Joint) -> str:
    """The weight that makes what a branch adds: its last projection's, or its own last norm's."""
    norms = reading.norms_between(start, join.h)
    return norms[-1].weight if norms else anchor


def _width(node: Node) -> int:
    shape = shape_of(node)
    return int(shape[-1]) if shape else 0


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
    strides = use.call.args[3] if len(use.call.args) > 3 else use.call.kwargs.get("stride", 1)
    kernel = tuple(int(size) for size in shape_of(use.w)[2:])
    if isinstance(strides, int):
        strides = (strides,) * len(kernel)
    return isinstance(strides, tuple | list) and tuple(strides) == kernel


def _matrix_inside(reading: Reading, node: Node) -> bool:
    weights = [o for o in node.all_input_nodes if o in reading.flow.facts.parameters]
    return any(len(shape_of(w)) > 1 for w in weights)
