"""rooms: soft tokens before a sequence that is no token ids, in the layers of a stack.

A sequence of patches or of audio frames has no ids that a virtual token could be one of, so it is
made longer where a layer reads it, the first or a later one, and what the last layer gives out is
made as short as before: what pools, projects or is handed back knows nothing of soft tokens. While
torch records a call, the module of the layer asks for room; the node that stands for it in the
graph is where methods at ``prompt`` act. Requires, of `fill`: ``insert`` has been there. Ensures:
no such node is left.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph
from peftlang.diagnostics import PeftError
from peftlang.ir.plan import Site
from peftlang.passes.dataflow.flow import Flow, shape_of
from peftlang.passes.dataflow.reading import Reading
from peftlang.passes.dataflow.structure import is_inside, item_path
from peftlang.passes.locate import locate
from peftlang.passes.occurrence import Located, Occurrence


@torch.library.custom_op("peftlang::room", mutates_args=())
def room(x: Tensor, count: int, layer: str) -> Tensor:
    """``x [batch, tokens, d]`` with room for soft tokens: ``[batch, count + tokens, d]``.

    Stands in graphs alone, until ``insert`` says what the soft tokens are that come in at a layer.

    Raises:
        PeftError: R501, it ran: torch left the layer to plain Python.
    """
    raise PeftError(
        f"torch did not record the layer `{layer}`, so soft tokens could not come in",
        code="R501",
        help="TORCH_LOGS=graph_breaks shows what stopped it",
    )


@room.register_fake
def _(x: Tensor, count: int, layer: str) -> Tensor:
    return x.new_empty(x.shape[0], count + x.shape[1], x.shape[2])


def is_room(node: Node) -> bool:
    """Whether a node makes room for soft tokens."""
    return node.op == "call_function" and node.target is torch.ops.peftlang.room.default


def room_of(node: Node) -> int:
    """How many soft tokens a node makes room for."""
    count = node.args[1]
    assert isinstance(count, int)
    return count


def rooms(graph: CapturedGraph, sites: Iterable[Site], located: Located) -> None:
    """Add to what is located in a graph where soft tokens come in."""
    by_layer: dict[str, list[Site]] = {}
    for site in sites:
        if site.stack is not None:
            by_layer.setdefault(item_path(site.stack, site.layer or 0), []).append(site)
    for node in list(graph.gm.graph.nodes):
        for site in by_layer.get(str(node.args[2]), ()) if is_room(node) else ():
            before = node.all_input_nodes[0]
            found = Occurrence(site, node, {"h": before}, {"h": (node,)})
            located.found.setdefault(site.id, []).append(found)


def fill(graph: Graph) -> None:
    """Let what follows read the sequence that ``insert`` made longer."""
    for node in list(graph.nodes):
        if is_room(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


# Which stacks have room


def prompts_inside(graphs: Sequence[CapturedGraph], sites: Sequence[Site]) -> list[Site]:
    """A site of role ``prompt`` for each stack of layers whose sequence is no token ids.

    All layers of the stack read one sequence ``[batch, tokens, d]`` and nothing else that is as
    long (a mask, positions), and attend to all of it.

    Args:
        graphs: What ``capture`` returned for one forward of the whole model.
        sites: Every other site.
    """
    stacks: dict[str, list[Site]] = {}
    for site in sites:
        if site.role == "block" and site.stack is not None and site.layer is not None:
            stacks.setdefault(site.stack, []).append(site)
    readings = [Reading(graph) for graph in graphs]
    return [_site(s, blocks) for s, blocks in stacks.items() if _has_room(readings, blocks)]


def _site(stack: str, blocks: Sequence[Site]) -> Site:
    first, last = blocks[0], blocks[-1]
    return Site(
        id=f"{stack}#prompt", role="prompt", path=stack.rpartition(".")[0], stack=stack,
        side=first.side, sees=first.sees, anchors=(first.anchors[0], last.anchors[0]),
        dims={"d_h": first.dims["d_x"], "layers": len(blocks)},
    )  # fmt: skip


def _has_room(readings: Sequence[Reading], blocks: Sequence[Site]) -> bool:
    if [block.layer for block in blocks] != list(range(blocks[0].dims.get("layers", 0))):
        return False
    if any(block.dims.get("d_x") != blocks[0].dims.get("d_x") for block in blocks):
        return False
    for reading in readings:
        found = locate(reading.graph, blocks).found
        once = all(len(occurrences) == 1 for occurrences in found.values())
        if once and set(found) == {block.id for block in blocks}:
            return _is_open(reading, [found[block.id][0] for block in blocks])
    return False


def _is_open(reading: Reading, blocks: Sequence[Occurrence]) -> bool:
    """Whether the sequence that these layers read can be longer, and is no ids'."""
    if not all({"x", "h"} <= set(block.values) for block in blocks):
        return False
    x = blocks[0].values["x"]
    shape = shape_of(x)
    if len(shape) != 3 or any(shape_of(block.values["h"]) != shape for block in blocks):
        return False
    if _is_of_ids(reading.flow, x):
        return False
    tokens = int(shape[1])
    return all(
        _attends(reading, path, tokens) and not list(_others(reading.flow, path, block, tokens))
        for block in blocks
        for path in [item_path(block.site.stack or "", block.site.layer)]
    )


def _is_of_ids(flow: Flow, x: Node) -> bool:
    """Whether a sequence is made of whole numbers that the caller gives."""
    made_of = (node for node in flow.ancestors([x]) if node in flow.live)
    return any(node.op == "placeholder" and not _floats(node) for node in made_of)


def _floats(node: Node) -> bool:
    value = node.meta.get("example_value")
    return not isinstance(value, Tensor) or value.is_floating_point()


def _attends(reading: Reading, path: str, tokens: int) -> bool:
    """Whether the layer's attention is over the whole sequence."""
    inside = [
        found
        for found in reading.attentions
        if any(is_inside(p, path) for p in reading.graph.facts.module_paths(found.call))
    ]
    lengths = [shape_of(found.k)[found.layout["k"].index("t")] for found in inside]
    return bool(lengths) and all(length == tokens for length in lengths)


def _others(flow: Flow, path: str, block: Occurrence, tokens: int) -> Iterator[Node]:
    """What a layer reads from outside that has as many entries as there are tokens."""
    inside = {n for n in flow.order if any(is_inside(p, path) for p in flow.facts.module_paths(n))}
    for node in inside:
        for operand in flow.operands[node]:
            own = operand in inside or operand is block.values["x"] or flow.is_weight(operand)
            if not own and tokens in shape_of(operand):
                yield operand
