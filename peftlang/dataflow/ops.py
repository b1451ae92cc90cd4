"""Kinds of operations, by one name for the function, the method and the in-place form."""

from typing import Any

import torch
from torch.fx import Node

from peftlang.capture.mutation import operands_written

_SAME = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "itruediv": "div",
    "truediv": "div",
    "true_divide": "div",
    "multiply": "mul",
    "imatmul": "matmul",
    "mm": "matmul",
    "bmm": "matmul",
    "swapaxes": "transpose",
    "swapdims": "transpose",
}

CASTS = frozenset(
    [
        "to",
        "float",
        "half",
        "bfloat16",
        "double",
        "type",
        "type_as",
        "contiguous",
        "clone",
        "detach",
        "alias",
    ]
)
VIEWS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "transpose",
        "permute",
        "t",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "view_as",
        "reshape_as",
        "movedim",
        "repeat",
        "repeat_interleave",
    ]
)
PICKS = frozenset(
    ["getitem", "chunk", "split", "unbind", "narrow", "select", "index_select", "tensor_split"]
)
DROPOUTS = frozenset(["dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_dropout"])
# Ops whose result for one token reads other tokens, or whose weights are not a projection's.
MIXING = frozenset(
    [
        "matmul",
        "baddbmm",
        "einsum",
        "softmax",
        "scaled_dot_product_attention",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "cumsum",
        "cumprod",
        "logcumsumexp",
        "roll",
        "flip",
        "sort",
        "topk",
        "gather",
        "scatter",
        "scatter_add",
        "index_add",
        "avg_pool1d",
        "avg_pool2d",
        "max_pool2d",
        "bilinear",
        "interpolate",
        "multi_head_attention_forward",
        "grouped_mm",
        "_grouped_mm",
        "grouped_mm_fallback",
        "fft",
        "rfft",
    ]
)
# From one operand elementwise: what may lie between the product of q and k and its softmax.
SCORE_STEPS = (
    CASTS
    | VIEWS
    | frozenset(["add", "sub", "mul", "div", "tanh", "masked_fill", "where", "clamp", "clip"])
)
ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "gelu",
        "silu",
        "sigmoid",
        "tanh",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "mish",
        "softplus",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "prelu",
        "softsign",
        "logsigmoid",
        "erf",
        "exp",
        "pow",
        "square",
        "glu",
    ]
)


def name_of(node: Node) -> str:
    """The operation's name: ``add`` for ``operator.add``, ``torch.add``, ``.add_()``, ``+=``."""
    if node.op == "call_method":
        name = str(node.target)
    elif node.op == "call_function":
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload):
            target = target.overloadpacket
        name = getattr(target, "__name__", str(target))
    else:
        return node.op
    if not name.startswith("_"):
        name = name.removesuffix("_")
    return _SAME.get(name, name)


def argument(call: Node, position: int, name: str, *, default: Any = None) -> Any:
    """An argument of a call, given by position or by name."""
    if name in call.kwargs:
        return call.kwargs[name]
    return call.args[position] if len(call.args) > position else default


def mutates(node: Node) -> bool:
    """Whether a node writes into one of its operands."""
    return bool(operands_written(node))


def is_matmul(node: Node) -> bool:
    """Whether the node is a product of two matrices, or of batches of them."""
    return name_of(node) == "matmul"
