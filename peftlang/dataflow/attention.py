"""Attention products, fused or spelled out, and the projections on either side of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch.fx import Node

from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.ops import (
    CASTS,
    DROPOUTS,
    SCORE_STEPS,
    VIEWS,
    is_matmul,
    name_of,
)
from peftlang.dataflow.weights import WeightUse, operand

_SWAPS = frozenset({"transpose", "permute"})


@dataclass(frozen=True, slots=True)
class Product:
    """The attention product of an `attn.core` or `cross_attn.core` occurrence.

    For kind ``"sdpa"`` the occurrence's `call` is the one
    ``scaled_dot_product_attention`` node and every field below but `mask` and `scale` is None.
    For kind ``"softmax"`` the product is spelled out, and in the order of execution:

    - `scores`: the node of ``q @ k.T`` that both sequences feed. Where more products are added to
      it (position terms that are learnt) they come after it.
    - `mask`: the node that is added to the scores or that fills them, None without one.
    - `softmax`: the softmax, `h` of the scores.
    - `weights`: what multiplies `v`: the softmax after casts and dropout.
    - `out_matmul`: ``weights @ v``; the occurrence's `call`.

    `scale` is the factor on the scores if it is one number in the graph, else None. In the
    kind ``"softmax"`` it is for information only: it is already part of the graph.
    `kv_repeats` says that `k` and `v` hold every query head (repeated keys) although the
    site's `kv_heads` is smaller.
    """

    kind: Literal["sdpa", "softmax"]
    mask: Node | None = None
    scale: float | None = None
    scores: Node | None = None
    softmax: Node | None = None
    weights: Node | None = None
    out_matmul: Node | None = None
    kv_repeats: bool = False


@dataclass(frozen=True)
class Attention:
    """One attention product.

    call: the node whose value is `h`, one vector per head and token.
    q, k, v: its operands, heads split.
    readers: which node takes each of them in.
    layout: the order of dimensions of q, k, v and h.
    sources: for q, k and v, the projections that they are made from.
    outs: the projections that read `h`.
    """

    call: Node
    q: Node
    k: Node
    v: Node
    product: Product
    readers: dict[str, tuple[Node, ...]]
    layout: dict[str, str]
    sources: dict[str, list[WeightUse]] = field(default_factory=dict)
    outs: list[WeightUse] = field(default_factory=list)

    @property
    def parts(self) -> dict[str, Node]:
        return {"q": self.q, "k": self.k, "v": self.v}


def attentions(flow: Flow, projections: Iterable[WeightUse]) -> list[Attention]:
    """Every attention product in the graph, with its projections."""
    by_result = {use.call: use for use in projections}
    found: list[Attention] = []
    for node in flow.order:
        name = name_of(node)
        if name == "scaled_dot_product_attention":
            bare = fused(node)
        elif name == "softmax":
            bare = _spelled_out(flow, node, by_result)
        else:
            continue
        if bare:
            found.append(_with_projections(flow, bare, by_result))
    return found


def _with_projections(flow: Flow, bare: Attention, by_result: dict[Node, WeightUse]) -> Attention:
    for name, node in bare.parts.items():
        bare.sources[name] = sources(flow, node, by_result)
    bare.outs.extend(_outs(flow, bare.call, by_result))
    return bare


def sources(
    flow: Flow, node: Node, by_result: dict[Node, WeightUse], stops: Collection[Node] = ()
) -> list[WeightUse]:
    """The projections that `node` is made from, the nearest on every path up to `stops`."""
    found: list[WeightUse] = []
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current in by_result:
            found.append(by_result[current])
            continue
        if current in stops or name_of(current) in {"embedding", "softmax"}:
            continue
        for value in flow.operands[current]:
            if value in flow.live and value not in seen:
                seen.add(value)
                stack.append(value)
    return sorted(found, key=lambda use: flow.order[use.call])


def _outs(flow: Flow, h: Node, by_result: dict[Node, WeightUse]) -> list[WeightUse]:
    """The first projections that read `h`, before anything else is added to it."""
    found: list[WeightUse] = []
    stack, seen = [h], {h}
    while stack:
        node = stack.pop()
        for reader in flow.readers[node]:
            if reader in seen:
                continue
            seen.add(reader)
            if reader in by_result:
                found.append(by_result[reader])
            elif not _adds_other(flow, reader, seen):
                stack.append(reader)
    return sorted(found, key=lambda use: flow.order[use.call])


def _adds_other(flow: Flow, node: Node, seen: set[Node]) -> bool:
    others = [o for o in flow.operands[node] if o not in seen and o in flow.live]
    return name_of(node) == "add" and bool(others)


def fused(node: Node) -> Attention | None:
    """The product that one call of `scaled_dot_product_attention` computes."""
    q, k, v = operand(node, 0, "query"), operand(node, 1, "key"), operand(node, 2, "value")
    if q is None or k is None or v is None:
        return None
    scale = node.kwargs.get("scale")
    product = Product(
        "sdpa",
        mask=operand(node, 3, "attn_mask"),
        scale=float(scale) if isinstance(scale, int | float) else None,
        kv_repeats=_as_many_heads(k, q),
    )
    letters = "bhtd" if len(shape_of(q)) == 4 else "ntd"
    return Attention(
        node, q, k, v, product, dict.fromkeys("qkv", (node,)), dict.fromkeys("qkvh", letters)
    )


def _as_many_heads(keys: Node, queries: Node) -> bool:
    return bool(shape_of(keys)[-3] == shape_of(queries)[-3])


@dataclass
class _Scores:
    matmul: Node
    mask: Node | None = None
    scale: float | None = None


def _spelled_out(flow: Flow, softmax: Node, by_result: dict[Node, WeightUse]) -> Attention | None:
    after = _weights(flow, softmax)
    scores = _scores(flow, softmax, by_result)
    if after is None or scores is None:
        return None
    weights, out = after
    matmul = scores.matmul
    q, other = matmul.all_input_nodes[:2]
    v = next(n for n in out.all_input_nodes if n is not weights)
    k, reader, turned = _unscaled(flow, matmul, other)
    product = Product(
        "softmax",
        mask=scores.mask,
        scale=scores.scale,
        scores=matmul,
        softmax=softmax,
        weights=weights,
        out_matmul=out,
        kv_repeats=_as_many_heads(v, q),
    )
    letters = "bhtd" if len(shape_of(q)) == 4 else "ntd"
    keys = letters[:-2] + "dt" if turned else letters
    return Attention(
        out,
        q,
        k,
        v,
        product,
        {"q": (matmul,), "k": (reader,), "v": (out,)},
        dict.fromkeys("qvh", letters) | {"k": keys},
    )


def _weights(flow: Flow, softmax: Node) -> tuple[Node, Node] | None:
    """The softmax's result as it is multiplied with v, and that product."""
    node = softmax
    for _ in range(12):
        readers = [r for r in flow.readers[node] if r.op != "output"]
        for reader in readers:
            if is_matmul(reader) and reader.all_input_nodes[0] is node:
                return node, reader
        steps = [r for r in readers if name_of(r) in CASTS | DROPOUTS | VIEWS | {"mul", "where"}]
        if not steps:
            return None
        node = steps[0]
    return None


def _scores(flow: Flow, softmax: Node, by_result: dict[Node, WeightUse]) -> _Scores | None:
    """The product of q and k among all that is added up before the softmax."""
    masks: list[Node] = []
    scales: list[float] = []
    candidates: list[Node] = []
    stack, seen = list(flow.operands[softmax]), set(flow.operands[softmax])
    while stack:
        node = stack.pop()
        if is_matmul(node) and node not in by_result:
            candidates.append(node)
            continue
        if name_of(node) not in SCORE_STEPS:
            continue
        scales += _factors(node)
        for value in flow.operands[node]:
            if value not in seen:
                seen.add(value)
                stack.append(value)
    pairs = [c for c in candidates if _from_both(flow, c)]
    if not pairs:
        return None
    matmul = min(pairs, key=lambda c: (not _same_origin(flow, c, by_result), flow.order[c]))
    masks = _added(flow, softmax, matmul)
    return _Scores(matmul, masks[0] if masks else None, scales[0] if len(scales) == 1 else None)


def _from_both(flow: Flow, matmul: Node) -> bool:
    return all(o in flow.live for o in matmul.all_input_nodes[:2])


def _same_origin(flow: Flow, matmul: Node, by_result: dict[Node, WeightUse]) -> bool:
    left, right = (sources(flow, o, by_result) for o in matmul.all_input_nodes[:2])
    return {use.x for use in left} == {use.x for use in right}


def _factors(node: Node) -> list[float]:
    numbers = [a for a in node.args if isinstance(a, int | float)]
    if name_of(node) == "mul":
        return [float(n) for n in numbers]
    return [1 / n for n in numbers if n] if name_of(node) == "div" else []


def _added(flow: Flow, softmax: Node, matmul: Node) -> list[Node]:
    """What is added to, or decides over, the scores on their way from `matmul` to `softmax`."""
    found: list[Node] = []
    for node, reached in flow.spine(matmul):
        if node is softmax:
            break
        if name_of(node) in {"add", "masked_fill", "where", "sub"}:
            found += [o for o in node.all_input_nodes if o not in reached]
    return found[::-1]


def _unscaled(flow: Flow, matmul: Node, operand: Node) -> tuple[Node, Node, bool]:
    """K before it is scaled: (k, who reads it, whether its last two dimensions are swapped)."""
    found = operand, matmul, True
    node, turned = operand, True
    while name_of(node) in CASTS | {"mul", "div"} | _SWAPS and flow.operands[node]:
        if name_of(node) in _SWAPS:
            if not _swaps_last(node):
                break
            turned = not turned
        inner = flow.operands[node][0]
        if name_of(node) in {"mul", "div"}:
            found = inner, node, turned
        node = inner
    return found


def _swaps_last(node: Node) -> bool:
    dims = len(shape_of(node))
    axes = {a % dims for a in node.args[1:3] if isinstance(a, int)}
    return name_of(node) == "transpose" and axes == {dims - 1, dims - 2}
