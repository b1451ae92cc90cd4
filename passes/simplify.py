"""simplify: compute once what methods were written to compute several times over.

Requires: a graph into which methods are written. Ensures: the same values, to the last bit, from
no more operations. Only what a pass wrote is touched; what draws random numbers is drawn as often
as it was.
"""

import operator
from collections.abc import Hashable
from functools import cache
from typing import Any

import torch
from torch.fx import Node

from peftlang.dataflow.ops import mutates
from peftlang.emit import casts
from peftlang.emit.rewriting import WRITTEN, Rewriting
from peftlang.regions.graphs import forward

_OWN = frozenset({casts.as_type_of, casts.as_widest, casts.precise, operator.getitem})
"""Functions that are no operators of torch's, and give the same for the same operands."""


def simplify(work: Rewriting) -> None:
    """Let equal operations be one, and leave out what nothing reads."""
    known: dict[Hashable, Node] = {}
    for node in list(work.graph.nodes):
        if node.target is forward or mutates(node):
            # What was equal before may be of other values behind it.
            known.clear()
        elif node.meta.get(WRITTEN) and _is_repeatable(node):
            first = known.setdefault(_key(node), node)
            if first is not node:
                _merge(work, node, first)
    _drop_unread(work)


def _merge(work: Rewriting, node: Node, first: Node) -> None:
    node.replace_all_uses_with(first)
    for slot, exported in work.exported.items():
        if exported is node:
            work.exported[slot] = first
    work.graph.erase_node(node)


def _drop_unread(work: Rewriting) -> None:
    handed_on = set(work.exported.values())
    for node in reversed(list(work.graph.nodes)):
        unread = not node.users and node not in handed_on
        if unread and node.meta.get(WRITTEN) and _is_repeatable(node):
            work.graph.erase_node(node)


def _is_repeatable(node: Node) -> bool:
    """Whether an operation gives the same each time, and does nothing else."""
    if node.op == "call_function":
        if node.target in _OWN:
            return True
        name = getattr(node.target, "__name__", "")
    else:
        name = str(node.target) if node.op == "call_method" else ""
    return _draws_nothing(name) and not mutates(node)


@cache
def _draws_nothing(name: str) -> bool:
    """Whether torch has an operator of this name, and none of its forms draws random numbers."""
    operators = getattr(torch.ops.aten, name, None) if name.isidentifier() else None
    if operators is None:
        return False
    seeded = torch.Tag.nondeterministic_seeded
    return not any(seeded in getattr(operators, one).tags for one in operators.overloads())


def _key(node: Node) -> Hashable:
    """What an operation is, and of what; numbers of different types are different."""
    return node.op, node.target, _frozen(node.args), _frozen(node.kwargs)


def _frozen(value: Any) -> Hashable:
    if isinstance(value, tuple | list):
        return "sequence", *map(_frozen, value)
    if isinstance(value, dict):
        return "mapping", *((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, slice):
        return "slice", *map(_frozen, (value.start, value.stop, value.step))
    return type(value), value if isinstance(value, Hashable) else id(value)
