"""Which rows of a projection make a role: found by running the few ops that split it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node, map_arg

from peftlang.capture.facts import VALUE
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.ir.plan import Rows

_CPU = torch.device("cpu")


def rows_reaching(flow: Flow, source: Node, sinks: Sequence[Node]) -> list[list[int]] | None:
    """For each sink, the features of `source` that it depends on.

    The ops between them run on small random tensors, and the gradients show which features
    arrive: so any layout comes out right, contiguous, interleaved by head, or grouped.

    Args:
        flow: A graph; where it is of any size, the sizes that it was captured with are taken.
        source: A node ``[..., features]``.
        sinks: Nodes downstream of it.

    Returns:
        Ascending indices for each sink, or None where the ops cannot be run by themselves.
    """
    between = _between(flow, source, sinks)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        try:
            shape = list(shape_of(source))
            start = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            values = _run(between, {source: start})
            return [_touched(start, values[sink]) for sink in sinks]
        except Exception:
            return None


def run_alone(nodes: Sequence[Node], wanted: Node) -> Any:
    """The value of `wanted` after running `nodes` on stand-ins; None where they do not run."""
    try:
        compute = [n for n in nodes if n.op in {"call_function", "call_method"}]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return _run(compute, {})[wanted]
    except Exception:
        return None


def as_rows(indices: Sequence[int], size: int) -> Rows | None:
    """Row numbers as compact runs; None when they are all rows in order."""
    if list(indices) == list(range(size)):
        return None
    runs: list[tuple[int, int, int]] = []
    position = 0
    while position < len(indices):
        length = _run_length(indices, position)
        first = indices[position]
        step = indices[position + 1] - first if length > 1 else 1
        runs.append((first, indices[position + length - 1] + 1, step))
        position += length
    return Rows(runs=tuple(runs), size=size)


def _run_length(indices: Sequence[int], position: int) -> int:
    """Length of the arithmetic run at `position`; a step other than one must pay its way."""
    rest = indices[position:]
    if len(rest) == 1:
        return 1
    step = rest[1] - rest[0]
    length = 2
    while length < len(rest) and rest[length] - rest[length - 1] == step:
        length += 1
    return length if step == 1 or length > 2 else 1


def _between(flow: Flow, source: Node, sinks: Sequence[Node]) -> list[Node]:
    first = flow.order[source]
    ancestors = set(flow.ancestors(sinks, first))
    downstream = {source}
    for node in sorted(ancestors, key=flow.order.__getitem__):
        if any(operand in downstream for operand in flow.operands[node]):
            downstream.add(node)
    return sorted(downstream & ancestors - {source}, key=flow.order.__getitem__)


def _run(nodes: Sequence[Node], known: dict[Node, Any]) -> dict[Node, Any]:
    values = dict(known)

    def value(node: Node) -> Any:
        if node not in values:
            values[node] = _stand_in(node.meta.get(VALUE))
        return values[node]

    for node in nodes:
        args = map_arg(_on_cpu(node.args), value)
        kwargs = map_arg(_on_cpu(dict(node.kwargs)), value)
        if node.op == "call_method":
            values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            values[node] = node.target(*args, **kwargs)
    return values


def _on_cpu(value: Any) -> Any:
    """The same arguments with every device the CPU and every floating type double."""
    if isinstance(value, torch.device):
        return _CPU
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return torch.float64
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return type(value)(_on_cpu(item) for item in value)
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value


def _stand_in(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return torch.randn(tuple(value.shape), dtype=torch.float64)
    known = not isinstance(value, FakeTensor)
    return value if known else torch.ones(tuple(value.shape), dtype=value.dtype)


def _touched(start: Tensor, value: Tensor) -> list[int]:
    weights = torch.randn_like(value)
    (gradient,) = torch.autograd.grad(
        (value * weights).sum(), start, retain_graph=True, materialize_grads=True
    )
    size = gradient.shape[-1]
    per_feature = gradient.reshape(-1, size).abs().amax(dim=0)
    return [int(i) for i in per_feature.nonzero().flatten()]
