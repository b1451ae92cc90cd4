"""What torch is asked for, as a graph says it: functions, methods by name, and special cases."""

import operator
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peftlang.capture.mutation import written

READING = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "equal", "allclose"}
    | {"is_nonzero", "__contains__"}
)
"""Functions by which Python reads the values of tensors."""

HALF_ALONE = frozenset({"grouped_mm", "_grouped_mm"})
"""Functions whose shape rule takes bfloat16 alone, though their kernels take more."""


def in_half(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a function that takes bfloat16 alone, in the number type of its operands."""
    kinds = [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
    half = [a.bfloat16() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
    return func(*half, **kwargs).to(kinds[0])


def is_given_back(result: Any, func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation gives one of its operands, in which it has not written."""
    if not any(result is value for value in (*args, *kwargs.values())):
        return False
    changed = written(getattr(func, "__name__", ""), func, args, kwargs)
    return isinstance(result, Tensor) and not any(result is value for value in changed)


_NAMES = (
    "add sub mul truediv matmul floordiv mod pow xor lt gt le ge eq ne lshift rshift neg invert "
    "getitem setitem iadd isub imul itruediv iand ior"
)
_OPERATORS: dict[str, Any] = {f"__{name}__": getattr(operator, name) for name in _NAMES.split()} | {
    "__and__": operator.and_,
    "__or__": operator.or_,
}

_METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType)


def target_of(func: Any) -> Any:
    """What a node calls: a function, or a method by its name; None for what computes nothing."""
    name = getattr(func, "__name__", "")
    if name in {"__set__", "__delete__"}:
        return None
    if name == "__get__":
        return getattr
    method = isinstance(func, _METHODS) or getattr(torch.Tensor, name, None) is func
    return _OPERATORS.get(name, name) if method else func
