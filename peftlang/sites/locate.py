"""locate: find a model's sites again in any graph of it.

Works from the weights that a site names and from what is around them, so it holds in graphs
that `roles` could not read: one layer, the encoder alone, a decoding step with a cache, the
body of a checkpoint, a part after a graph break. Requires: the graph's facts. Ensures: every
site whose weights are used in the graph is either found or reported as missing.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.dataflow.attention import Attention
from peftlang.dataflow.calls import regions, whole
from peftlang.dataflow.feedforward import branch_between, branch_of, inputs_of
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.ops import CASTS, VIEWS, name_of
from peftlang.dataflow.projected import projected
from peftlang.dataflow.reading import Reading, applied_parameters
from peftlang.dataflow.residual import Joint, joint
from peftlang.dataflow.weights import WeightUse
from peftlang.ir.plan import Site
from peftlang.ir.soft_tokens import POSITION_TABLE
from peftlang.sites.occurrence import Located, Missing, Occurrence

_KINDS = {"norm": ("norm",), "embed": ("embed", "conv"), POSITION_TABLE: ("embed",)}


def locate(graph: CapturedGraph, sites: Iterable[Site]) -> Located:
    """Where each of `sites` runs in `graph`.

    Args:
        graph: Any graph of the model that the sites belong to.
        sites: Sites from `roles`.

    Returns:
        The occurrences by site id, in the order in which they run (none for a site that does
        not run here), and the sites that run here and cannot be found.
    """
    used = applied_parameters(graph)
    wanted = [site for site in sites if _anchor(site) in used or _runs_module(site, used)]
    located = Located()
    if not wanted:
        return located
    reading = Reading.of(graph)
    rivals: dict[tuple[str, str | None], list[Site]] = {}
    for site in wanted:
        rivals.setdefault((site.role, site.weight), []).append(site)
    for site in wanted:
        found, reason = _find(reading, site, rivals[site.role, site.weight])
        if found:
            located.found[site.id] = found
        elif reason:
            located.missing.append(Missing(site, reason))
    return located


def _anchor(site: Site) -> str:
    """The parameter whose use means that the site's own node is in the graph."""
    if site.role == "block":
        return site.anchors[1]
    return site.anchors[0]


def _runs_module(site: Site, used: frozenset[str]) -> bool:
    return site.role == "module" and not used.isdisjoint(site.anchors)


def _find(
    reading: Reading, site: Site, rivals: Sequence[Site]
) -> tuple[list[Occurrence], str | None]:
    finders = {
        "attn.core": _cores,
        "cross_attn.core": _cores,
        "attn": _sublayers,
        "cross_attn": _sublayers,
        "ffn": _sublayers,
        "ffn.act": _activations,
        "block": _blocks,
        "module": _modules,
    }
    find = _experts if site.role.startswith("expert.") else finders.get(site.role)
    return find(reading, site) if find else _single(reading, site, rivals)


# One weight


def _single(
    reading: Reading, site: Site, rivals: Sequence[Site]
) -> tuple[list[Occurrence], str | None]:
    kinds = _KINDS.get(site.role, ("projection",))
    assert site.weight is not None
    uses = [u for u in reading.using(site.weight, *kinds) if _same_rows(u, site)]
    if len(rivals) > 1:
        uses = [u for u in uses if reading.owner(u) == site.path]
    if uses:
        return [_of_use(reading, use, site) for use in uses], None
    if _only_tied(reading, site):
        return [], None
    return [], f"`{site.weight}` is used here, but not as a {kinds[0]}"


def _experts(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    """The parameter itself: whatever reads it reads the weights of all experts."""
    parameters = reading.graph.facts.parameters.items()
    return [
        Occurrence(site, node, {"W": node})
        for node, name in parameters
        if name == site.weight and node.users
    ], None


def _only_tied(reading: Reading, site: Site) -> bool:
    """Whether a shared weight is at work here in another role alone (embedding and head)."""
    return bool(reading.by_weight.get(site.weight or ""))


def _same_rows(use: WeightUse, site: Site) -> bool:
    if use.rows is None:
        return True
    return site.rows is not None and site.rows.contiguous == use.rows


def _of_use(reading: Reading, use: WeightUse, site: Site) -> Occurrence:
    values = {"x": use.x, "h": use.h, "W": use.w}
    readers = {"W": _readers(use.w, use.call), "x": (use.reader or use.call,)}
    if use.kind == "norm" and use.reader is None:
        readers["x"] = _readers_before(reading.flow, use.x, use.call)
    if use.kind in {"embed", "conv"}:
        values.pop("x")
        readers.pop("x")
    if use.b is not None:
        values["b"] = use.b
        readers["b"] = _readers(use.b, use.h, use.call)
    layout = (
        {"h": "bchw"[: len(shape_of(use.h))]} if use.h is use.call and use.kind == "conv" else {}
    )
    return Occurrence(site, use.call, values, readers, layout, None, use.rows is not None)


def _readers_before(flow: Flow, x: Node, end: Node) -> tuple[Node, ...]:
    """Who reads `x` on the way to `end`."""
    inside = set(flow.ancestors([end], flow.order[x]))
    return tuple(reader for reader in flow.readers[x] if reader in inside)


def _readers(parameter: Node, *calls: Node) -> tuple[Node, ...]:
    """Who reads the parameter on the way to one of these calls."""
    return tuple(user for user in parameter.users if user in calls or _leads_to(user, calls))


def _leads_to(node: Node, calls: Sequence[Node], steps: int = 6) -> bool:
    if steps == 0:
        return False
    return any(user in calls or _leads_to(user, calls, steps - 1) for user in node.users)


def _activations(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    uses = reading.using(site.anchors[0], "projection")
    found = [
        Occurrence(site, use.x, {"h": use.x}, {"h": (use.reader or use.call,)}) for use in uses
    ]
    return found, None if found else "its projection is applied in an unknown way"


def _modules(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    calls = regions(reading.flow, site.path)
    if not calls and set(site.anchors) <= applied_parameters(reading.graph):
        own_frame = whole(reading.flow)
        calls = [own_frame] if own_frame else []
    found = [
        Occurrence(site, call.h, {"x": call.x, "h": call.h}, {"x": call.entries}) for call in calls
    ]
    if found or not _all_inside(reading, site):
        return found, None
    return [], "a part of the module runs here by itself"


def _all_inside(reading: Reading, site: Site) -> bool:
    """Whether the graph is a part of the module's own frame, rather than of one inside it."""
    paths = {path for node in reading.flow.order for path in reading.graph.facts.module_paths(node)}
    own = reading.graph.facts.names.owned.get(site.path, {})
    direct = own.keys() & applied_parameters(reading.graph)
    children = {p for p in paths if p.rpartition(".")[0] == site.path}
    return bool(direct or children)


# Attention


def _cores(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    found = [
        _of_product(reading, product, site)
        for product in reading.attentions
        if any(use.weight == site.anchors[0] for use in product.sources["q"])
    ]
    if found:
        return found, None
    return [], "the queries are made here, but no attention product reads them"


def _of_product(reading: Reading, found: Attention, site: Site) -> Occurrence:
    queries = [use for use in found.sources["q"] if use.weight == site.anchors[0]]
    values = {"x": queries[0].x, **found.parts, "h": found.call}
    return Occurrence(
        site,
        found.call,
        values,
        dict(found.readers),
        dict(found.layout),
        found.product,
        projected=partial(projected, reading.flow, found),
    )


# Sub-layers and layers


def _sublayers(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    found = []
    for start, end in _ends(reading, site.anchors[0]):
        inputs = _inputs(reading, site, end)
        other = None
        if site.role == "ffn" and not inputs:
            other = branch_of(reading.flow, start, site.anchors[0])
        sources, experts = [x for x, _ in inputs], site.role == "ffn"
        join = other.joint if other else joint(reading.flow, start, sources, with_experts=experts)
        found.append(_whole(reading, site, start, join, inputs))
    if found:
        return found, None
    return [], f"`{site.anchors[0]}` is used here in an unknown way"


def _ends(reading: Reading, anchor: str) -> list[tuple[Node, Node]]:
    """(result, call) of every use of the weight that ends a branch."""
    known = reading.using(anchor, "projection", "norm")
    if known:
        return [(use.h, use.call) for use in known]
    users = [
        node
        for node in reading.flow.order
        if node in reading.flow.live
        and any(
            o not in reading.flow.live and reading.flow.parameter(o) == anchor
            for o in node.all_input_nodes
        )
    ]
    return [(users[-1], users[-1])] if users else []


def _inputs(reading: Reading, site: Site, end: Node) -> list[tuple[Node, Node]]:
    """(x, who reads it) for the projections that open the branch which ends in `end`."""
    flow = reading.flow
    if site.role == "ffn":
        return _ffn_inputs(reading, site, end)
    mine = [
        product
        for product in reading.attentions
        if any(use.weight == site.anchors[1] for use in product.sources["q"])
        and flow.is_ancestor(product.call, end)
    ]
    uses = [use for product in mine for part in "qkv" for use in product.sources[part]]
    queries = [use.x for use in uses if use.weight == site.anchors[1]]
    return [(u.x, u.reader or u.call) for u in uses if queries and u.x is queries[-1]]


def _ffn_inputs(reading: Reading, site: Site, end: Node) -> list[tuple[Node, Node]]:
    downs = reading.using(site.anchors[-1], "projection")
    for down in reversed(downs):
        if reading.flow.is_ancestor(down.call, end):
            uses = inputs_of(reading.flow, down, reading.by_result)
            return [(use.x, use.reader or use.call) for use in uses]
    return []


def _whole(
    reading: Reading,
    site: Site,
    start: Node,
    join: Joint | None,
    inputs: list[tuple[Node, Node]],
) -> Occurrence:
    if join is None:
        h = _last_on_spine(reading.flow, start)
        occurrence = Occurrence(site, h, {"h": h})
    else:
        occurrence = Occurrence(site, join.add, {"h": join.h}, {"h": (join.add,)})
        if join.resid is not None:
            occurrence.values["resid"] = join.resid
            occurrence.readers["resid"] = (join.total,)
    if inputs:
        occurrence.values["x"] = inputs[0][0]
        occurrence.readers["x"] = tuple(dict.fromkeys(reader for _, reader in inputs))
    elif site.role == "ffn" and join and join.resid is not None:
        _from_experts(reading, occurrence, join)
    return occurrence


def _from_experts(reading: Reading, occurrence: Occurrence, join: Joint) -> None:
    branch = branch_between(reading.flow, join)
    if branch:
        occurrence.values["x"] = branch.x
        occurrence.readers["x"] = _readers_before(reading.flow, branch.x, join.h)


def _last_on_spine(flow: Flow, start: Node) -> Node:
    """Where the branch leaves the graph, when its addition is not in it."""
    last = start
    for node, _ in flow.spine(start):
        if name_of(node) not in CASTS | VIEWS | {"dropout", "mul", "layer_norm", "rms_norm"}:
            break
        last = node
    return last


def _blocks(reading: Reading, site: Site) -> tuple[list[Occurrence], str | None]:
    first, last = site.anchors[:2]
    norm = site.anchors[2] if len(site.anchors) > 2 else None
    found: list[Occurrence] = []
    for start, end in _ends(reading, last):
        join = _joint_of(reading, start, end)
        if join is None:
            continue
        out = _after_norm(reading, join.total, norm)
        occurrence = Occurrence(site, out, {"h": out})
        opening = _opening(reading, first, end) if first != last else join
        if opening is not None and opening.resid is not None:
            occurrence.values["x"] = opening.resid
            occurrence.readers["x"] = _readers_before(reading.flow, opening.resid, out)
        found.append(occurrence)
    if found or first not in applied_parameters(reading.graph):
        return found, None
    return [], "the layer's branches run here, but not their addition to the stream"


def _joint_of(reading: Reading, start: Node, end: Node) -> Joint | None:
    return joint(reading.flow, start, _branch_inputs(reading, end))


def _branch_inputs(reading: Reading, end: Node) -> list[Node]:
    """What the projections just before `end` read: enough to tell the stream by."""
    flow = reading.flow
    nodes: list[Node] = []
    use = reading.by_result.get(end)
    if use is not None:
        nodes += [u.x for u in inputs_of(flow, use, reading.by_result)]
        products = [a for a in reading.attentions if use in a.outs]
        nodes += [q.x for a in products for q in a.sources["q"]]
    elif any(u.call is end for u in reading.uses):
        norm = next(u for u in reading.uses if u.call is end)
        inner = flow.source(norm.x, CASTS | VIEWS | {"dropout"})
        return _branch_inputs(reading, inner) if inner in reading.by_result else []
    return nodes


def _opening(reading: Reading, first: str, before: Node) -> Joint | None:
    order = reading.flow.order
    starts = [(s, e) for s, e in _ends(reading, first) if order[e] <= order[before]]
    return _joint_of(reading, *starts[-1]) if starts else None


def _after_norm(reading: Reading, total: Node, norm: str | None) -> Node:
    """What a layer gives out: its last sum, after its own norm, with tokens unflattened."""
    flow = reading.flow
    own = reading.using(norm, "norm") if norm else []
    out = next((u.h for u in own if flow.source(u.x, CASTS | VIEWS) is total), total)
    readers = flow.readers[out]
    if len(readers) == 1 and name_of(readers[0]) in {"view", "reshape", "unflatten"}:
        (back,) = readers
        keeps = shape_of(back)[-1:] == shape_of(out)[-1:]
        return back if keeps and len(shape_of(back)) > len(shape_of(out)) else out
    return out
