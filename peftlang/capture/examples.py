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


def hint_of(size: Any) -> int:
    """A size as it is in this call, without telling the tracer that it always will be."""
    return int(getattr(getattr(size, "node", None), "hint", size))
