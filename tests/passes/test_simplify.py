"""What `simplify` may not take for the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from peftlang.emit.rewriting import WRITTEN, Rewriting
from peftlang.emit.slots import Slot
from peftlang.passes.simplify import simplify
from peftlang.regions.graphs import forward
from peftlang.sites.occurrence import Located


def simplified(between: Callable[[Graph, Node], Any], first: Any, second: Any) -> list[Node]:
    """What a pass wrote, and is left, of two operations with something between them."""
    graph = Graph()
    given = graph.placeholder("given")
    one = graph.call_function(*first(given))
    between(graph, given)
    other = graph.call_function(*second(given))
    total = graph.call_function(torch.add, (one, other))
    for node in (one, other, total):
        node.meta[WRITTEN] = True
    graph.output(total)
    work = Rewriting("a graph", graph, Located(), exported={Slot("state", "s"): other})
    simplify(work)
    graph.lint()
    left = [node for node in graph.nodes if node.meta.get(WRITTEN)]
    assert work.exported[Slot("state", "s")] in left
    return left


def nothing(_graph: Graph, _given: Node) -> None:
    return None


def in_place(graph: Graph, given: Node) -> None:
    graph.call_method("add_", (given, 1))


def whole_module(graph: Graph, given: Node) -> None:
    graph.call_function(forward, (given,))


def half(given: Node) -> Any:
    return torch.mul, (given, 0.5)


def dropped(given: Node) -> Any:
    return torch.nn.functional.dropout, (given, 0.5, True)


def test_equal_operations_are_one() -> None:
    assert len(simplified(nothing, half, half)) == 2


@pytest.mark.parametrize(
    ("between", "first", "second"),
    [
        (in_place, half, half),
        (whole_module, half, half),
        (nothing, dropped, dropped),
        (nothing, half, lambda given: (torch.mul, (given, 2))),
        (nothing, lambda given: (torch.mul, (given, 1)), lambda g: (torch.mul, (g, 1.0))),
        (nothing, lambda given: (torch.mul, (given, 1)), lambda g: (torch.mul, (g, True))),
    ],
    ids=["in place", "a module runs", "drawn", "other number", "1 and 1.0", "1 and True"],
)
def test_what_may_differ_stays(between: Any, first: Any, second: Any) -> None:
    assert len(simplified(between, first, second)) == 3
