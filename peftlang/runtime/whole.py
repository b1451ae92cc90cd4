"""The model as one graph: recorded for the call at hand, rewritten, and put in another order.

A recording is of one kind of call: its arguments have the same form and sizes, and what the model's
Python read of their values was the same. Each kind is recorded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Graph, Node, map_arg
from torch.utils._pytree import tree_flatten, tree_unflatten

from peftlang.capture import CapturedGraph
from peftlang.diagnostics import PeftError
from peftlang.regions.code import compiled

MOST = 64
"""How many kinds of call are kept."""


@dataclass(eq=False)
class Recorded:
    """One kind of call.

    Attributes:
        captured: The recording.
        code: What runs in its place.
        decided: Computes, from the caller's tensors, what Python read; None for nothing.
        answers: What it read.
    """

    captured: CapturedGraph
    code: Any
    decided: Callable[..., Any] | None
    answers: tuple[Any, ...]

    def fits(self, tensors: list[Tensor]) -> bool:
        """Whether the model would go the same way with these."""
        return self.decided is None or tuple(self.decided(*tensors)) == self.answers

    def result(self, values: tuple[Any, ...]) -> Any:
        """What the model returned, in the form in which it did."""
        leaves, form = self.captured.result
        given = iter(values)
        return tree_unflatten([next(given) if isinstance(x, Node) else x for x in leaves], form)


@dataclass(eq=False)
class Whole:
    """The recordings of a model, by the form of a call, and by what is known of it."""

    known: dict[Any, list[Recorded]] = field(default_factory=dict)

    def find(self, key: Any, tensors: list[Tensor]) -> Recorded | None:
        """The recording for a call."""
        return next((one for one in self.known.get(key, ()) if one.fits(tensors)), None)

    def keep(self, key: Any, recorded: Recorded) -> Recorded:
        """Keep a recording; the oldest goes where there are many."""
        self.known.setdefault(key, []).append(recorded)
        while sum(map(len, self.known.values())) > MOST:
            oldest = next(iter(self.known))
            self.known[oldest].pop(0)
            if not self.known[oldest]:
                del self.known[oldest]
        return recorded


def form_of(inputs: Mapping[str, Any]) -> tuple[Any, list[Tensor]]:
    """The form of a call's arguments, and the tensors among them, each once.

    Raises:
        PeftError: R526, an argument is neither a tensor nor a plain value.
    """
    leaves, spec = tree_flatten(dict(inputs))
    kinds: list[Any] = []
    tensors: list[Tensor] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            known = next((i for i, other in enumerate(tensors) if other is leaf), len(tensors))
            tensors += [leaf] if known == len(tensors) else []
            kinds.append((known, tuple(leaf.shape), leaf.dtype))
        elif leaf is None or isinstance(leaf, bool | int | float | str):
            kinds.append(leaf)
        else:
            raise PeftError(
                f"the model runs as one graph, which takes no {type(leaf).__name__}",
                code="R526",
                help="pass tensors and plain values; `use_cache=False`",
            )
    return (str(spec), *kinds), tensors


def decisions(captured: CapturedGraph) -> Callable[..., Any] | None:
    """What computes from a call's tensors what the model's Python reads of their values."""
    if not captured.decided:
        return None
    graph, known = Graph(), dict[Node, Node]()
    for node in captured.inputs:
        known[node] = graph.placeholder(node.name)
    wanted = [operand for _, args, _ in captured.decided for operand in _nodes(args)]
    needed, pending = set[Node](), list(wanted)
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += node.all_input_nodes
    if any(n.op in {"placeholder", "get_attr"} and n not in known for n in needed):
        # It read what a weight or a buffer makes, which stays as it is.
        return None
    for node in captured.graph.nodes:
        if node in needed and node not in known:
            known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(
        tuple(
            graph.call_function(function, map_arg(args, known.__getitem__))
            for function, args, _ in captured.decided
        )
    )
    return compiled(graph)


def _nodes(args: Any) -> list[Node]:
    found: list[Node] = []
    map_arg(args, found.append)
    return found
