"""lift: make what adapters own an input of the graph.

Requires: reads of adapter values are attributes marked with a slot name. Ensures: the outermost
graph takes each of them once, before its own inputs; nested graphs take them as operands, so
that gradients reach them under every inner backend.
"""

from torch import Tensor
from torch.fx import GraphModule, Node

from peftlang.capture import CapturedGraph
from peftlang.passes.rewriting import SLOT, Rewriting, hold


def lift(work: Rewriting) -> None:
    """Turn every slot read into an input; ``work.lifted`` gets their names in order."""
    for graph in reversed(work.graphs[1:]):
        _thread(graph)
    work.lifted = _to_placeholders(work.outermost.gm)


def _slot_nodes(gm: GraphModule) -> list[Node]:
    return [node for node in gm.graph.nodes if node.op == "get_attr" and SLOT in node.meta]


def _thread(graph: CapturedGraph) -> None:
    """Read a nested graph's slots in the graph around it, and pass them on as operands."""
    caller, parent = graph.caller, graph.parent
    assert caller is not None
    assert parent is not None
    inner = graph.gm.graph
    outer_reads = {node.meta[SLOT]: node for node in _slot_nodes(parent.gm)}
    for node in _slot_nodes(graph.gm):
        name = node.meta[SLOT]
        if name not in outer_reads:
            outer_reads[name] = _read_in(parent, name, getattr(graph.gm, str(node.target)))
        last = [n for n in inner.nodes if n.op == "placeholder"][-1]
        with inner.inserting_after(last):
            placeholder = inner.placeholder(str(node.target))
        placeholder.meta.update(node.meta)
        node.replace_all_uses_with(placeholder)
        inner.erase_node(node)
        delattr(graph.gm, str(node.target))
        caller.args = (*caller.args, outer_reads[name])
    graph.gm.recompile()


def _read_in(graph: CapturedGraph, name: str, value: Tensor) -> Node:
    taken = len(_slot_nodes(graph.gm))
    attribute = f"peftlang_threaded_{taken}"
    hold(graph.gm, attribute, value)
    first = next(n for n in graph.gm.graph.nodes if n.op != "placeholder")
    with graph.gm.graph.inserting_before(first):
        node = graph.gm.graph.get_attr(attribute)
    node.meta[SLOT] = name
    node.meta["example_value"] = value
    return node


def _to_placeholders(gm: GraphModule) -> list[str]:
    reads = _slot_nodes(gm)
    first = next(iter(gm.graph.nodes))
    for node in reads:
        with gm.graph.inserting_before(first):
            placeholder = gm.graph.placeholder(str(node.target))
        placeholder.meta.update(node.meta)
        node.replace_all_uses_with(placeholder)
        gm.graph.erase_node(node)
        delattr(gm, str(node.target))
    gm.recompile()
    return [node.meta[SLOT] for node in reads]
