"""Number types that show when a graph runs: of mixed precision, and of models that were moved."""

from typing import Any

import torch


def as_type_of(value: Any, like: Any) -> Any:
    """A tensor of real numbers in the number type of another."""
    return value if value.dtype == like.dtype else value.to(like.dtype)


def as_widest(value: Any, *others: Any) -> Any:
    """A tensor in the widest of the number types of all these."""
    kind = value.dtype
    for other in others:
        if other.dtype.is_floating_point:
            kind = torch.promote_types(kind, other.dtype)
    return value if value.dtype == kind else value.to(kind)


def precise(value: Any) -> Any:
    """A tensor in single precision, where it is of half."""
    half = value.dtype in {torch.float16, torch.bfloat16}
    return value.float() if half else value
