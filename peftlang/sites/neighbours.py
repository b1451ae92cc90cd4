"""Which projection stands next to a site that has no weights of its own.

A projection is named only where nothing but views, casts and switched-off dropout lies between it
and the site.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.dataflow.ops import argument
from peftlang.ir.plan import Site
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Occurrence

WRITERS = frozenset({"attn.o", "cross_attn.o", "ffn.down"})
SUBLAYERS = frozenset({"attn", "cross_attn", "ffn"})


@dataclass(frozen=True)
class Neighbours:
    """Where a site that has no weights of its own hands its value on.

    Attributes:
        reader: For ``ffn.act``: the projection that reads it, by site id.
        writer: For a sub-layer: the projection whose output it is, unchanged.
    """

    reader: Mapping[str, Site] = field(default_factory=dict)
    writer: Mapping[str, Site] = field(default_factory=dict)


def neighbours(graph: CapturedGraph, sites: Iterable[Site]) -> Neighbours:
    """The projection that reads each ``ffn.act``, and the one that writes each sub-layer.

    Args:
        graph: What was recorded of the base in eval mode.
        sites: Every site of the model.
    """
    sites = [site for site in sites if site.role != "prompt"]
    reader: dict[str, Site] = {}
    writer: dict[str, Site] = {}
    found = [o for group in locate(graph, sites).found.values() for o in group]
    readers = {o.values["x"]: o.site for o in found if o.site.role == "ffn.down"}
    writers = {o.values["h"]: o.site for o in found if o.site.role in WRITERS}
    for occurrence in found:
        node = _unchanged(occurrence.values["h"]) if "h" in occurrence.values else None
        role = occurrence.site.role
        if role == "ffn.act" and _only(occurrence, readers):
            reader[occurrence.site.id] = readers[occurrence.values["h"]]
        elif role in SUBLAYERS and node in writers:
            writer[occurrence.site.id] = writers[node]
    return Neighbours(reader, writer)


def _only(occurrence: Occurrence, readers: dict[Node, Site]) -> bool:
    return occurrence.values["h"] in readers


def _unchanged(node: Node) -> Node:
    """The node whose value ``node`` hands on: dropout does nothing in eval mode."""
    while _is_idle_dropout(node):
        operand = node.args[0]
        assert isinstance(operand, Node)
        node = operand
    return node


def _is_idle_dropout(node: Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    if node.op not in {"call_function", "call_method"} or "dropout" not in name:
        return False
    training = argument(node, 2, "training", default=True)
    rate = argument(node, 1, "p", default=0.5)
    return training is False or bool(rate == 0)
