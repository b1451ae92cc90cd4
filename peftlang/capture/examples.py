"""What an inner backend is shown of values that a rewritten graph takes besides its own inputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule


def graph_inputs(gm: GraphModule) -> list[Any]:
    """Stand-ins of a graph's inputs, as Dynamo recorded them, with sizes that may vary."""
    return [node.meta.get("example_value") for node in gm.graph.find_nodes(op="placeholder")]


def stand_in(value: Tensor, inputs: Sequence[Any], varying: int = 0) -> Tensor:
    """A value of one call as a backend may compile for it.

    Its sizes are fixed, but for the first ones: where those of the graph's own inputs vary, they
    vary with them. A value of its own kind is a leaf to the backend.

    Args:
        value: The value.
        inputs: Stand-ins of the graph's own inputs.
        varying: How many of the first sizes are those of the inputs (batch, tokens).
    """
    mode = next((like.fake_mode for like in inputs if isinstance(like, FakeTensor)), None)
    if mode is None:
        return value
    like = _same_start(value, varying, inputs)
    if like is None:
        leaf = value if value.is_leaf else value.detach().requires_grad_(value.requires_grad)
        return mode.from_tensor(leaf, static_shapes=True)
    with mode:
        made = torch.empty(
            (*like.shape[:varying], *value.shape[varying:]), dtype=value.dtype, device=value.device
        )
    return made.requires_grad_(value.requires_grad)


def _same_start(value: Tensor, varying: int, inputs: Sequence[Any]) -> FakeTensor | None:
    """An input whose first sizes are those of ``value`` and vary; ids rather than states."""
    wanted = list(value.shape[:varying])
    found = [
        like
        for like in inputs
        if isinstance(like, FakeTensor)
        and any(isinstance(size, torch.SymInt) for size in like.shape[:varying])
        and list(map(hint_of, like.shape[:varying])) == wanted
    ]
    return min(found, key=lambda like: (like.is_floating_point(), like.dim()), default=None)


class Sizes:
    """The sizes of one call of a graph that was recorded with sizes that may vary.

    Args:
        gm: The graph.
        inputs: What it is called with, one for each placeholder; while Dynamo records it these
            are stand-ins, and the sizes are those of the call that is being recorded.
    """

    def __init__(self, gm: GraphModule, inputs: Sequence[Any]) -> None:
        self._places: dict[Any, tuple[int, int | None]] = {}
        self._assumed: dict[Any, int] = {}
        for index, recorded in enumerate(graph_inputs(gm)):
            shape = recorded.shape if isinstance(recorded, Tensor) else ()
            sizes = [(None, recorded), *enumerate(shape)]
            for dim, size in sizes:
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                    self._places.setdefault(size.node.expr, (index, dim))
        self._now = {symbol: hint_of(self._read(symbol, inputs)) for symbol in self._places}

    def now(self, size: Any) -> int:
        """A size in this call, without telling the tracer that it always will be."""
        if isinstance(size, torch.SymInt):
            found = size.node.expr.subs(self._now)
            if found.is_Integer:
                return int(found)
        return hint_of(size)

    def fixed(self, size: Any) -> int:
        """A size in this call that goes into the code, which is then for such calls alone."""
        if isinstance(size, torch.SymInt):
            symbols = size.node.expr.free_symbols & self._now.keys()
            self._assumed |= {symbol: self._now[symbol] for symbol in symbols}
        return self.now(size)

    def fit(self, inputs: Sequence[Any]) -> bool:
        """Whether a call has the sizes that went into the code."""
        return all(self._read(s, inputs) == value for s, value in self._assumed.items())

    def _read(self, symbol: Any, inputs: Sequence[Any]) -> Any:
        index, dim = self._places[symbol]
        return inputs[index] if dim is None else inputs[index].shape[dim]


def hint_of(size: Any) -> int:
    """A size as it is in this call, without telling the tracer that it always will be."""
    return int(getattr(getattr(size, "node", None), "hint", size))
