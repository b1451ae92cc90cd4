"""What a spelled-out attention does to its scores between the product and the softmax."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.diagnostics import PeftError
from peftlang.emit.rewriting import Emission


def replayed(emission: Emission, scores: Node, softmax: Node, other: Any) -> Any:
    """Do to ``other`` what the graph does to ``scores`` on the way to ``softmax``.

    Scaling, capping and casts act on learned keys as on the others. What is added or filled in
    by position (masks, position terms) says nothing of a learned key, and is left out.

    Args:
        emission: Where to write.
        scores: The product of queries and keys, ``[batch, heads, tokens, keys]``.
        softmax: The softmax.
        other: Products with learned keys, in the same layout.

    Raises:
        PeftError: S410, the chain holds an operation whose effect on learned keys is unknown.
    """
    value = other
    for previous, node in _path(scores, softmax):
        if _is_positional(node, previous):
            continue
        value = _repeated(emission, node, previous, value)
    return value


def _path(start: Node, end: Node) -> list[tuple[Node, Node]]:
    """Pairs (operand, node) from ``start`` to the operand of ``end``, in order."""
    parents: dict[Node, Node] = {}
    frontier = [start]
    while frontier:
        node = frontier.pop()
        for user in node.users:
            if user not in parents:
                parents[user] = node
                if user is not end:
                    frontier.append(user)
    if end not in parents:
        raise _unknown(start)
    steps: list[tuple[Node, Node]] = []
    node = parents[end]
    while node is not start:
        steps.append((parents[node], node))
        node = parents[node]
    return steps[::-1]


def _is_positional(node: Node, operand: Node) -> bool:
    """Whether ``node`` adds or fills in something that differs from key to key."""
    others = [arg for arg in node.all_input_nodes if arg is not operand]
    if not others:
        return False
    return any(_size(arg) != 1 for arg in others)


def _size(node: Node) -> int | None:
    value = node.meta.get(VALUE)
    return value.numel() if isinstance(value, torch.Tensor) and value.dim() == 0 else None


def _repeated(emission: Emission, node: Node, operand: Node, value: Any) -> Any:
    target = node.target if node.op == "call_function" else str(node.target)
    name = getattr(target, "__name__", str(target))
    if name.rstrip("_") not in _POINTWISE:
        raise _unknown(node)

    def swap(arg: Any) -> Any:
        if arg is operand:
            return value
        return emission.proxy(arg) if isinstance(arg, Node) else arg

    args = [swap(arg) for arg in node.args]
    kwargs = {key: swap(arg) for key, arg in node.kwargs.items()}
    if node.op == "call_function":
        assert callable(node.target)
        return node.target(*args, **kwargs)
    return getattr(args[0], str(node.target))(*args[1:], **kwargs)


_POINTWISE = frozenset(
    {
        "mul",
        "div",
        "truediv",
        "tanh",
        "to",
        "float",
        "half",
        "bfloat16",
        "type_as",
        "sub",
        "add",
        "contiguous",
        "clamp",
    }
)


def _unknown(node: Node) -> PeftError:
    return PeftError(
        f"this attention does `{node.target}` to its scores, and what that means for learned "
        "keys is not known",
        code="S410",
        help="use attn_implementation='sdpa', or place the method elsewhere",
    )
