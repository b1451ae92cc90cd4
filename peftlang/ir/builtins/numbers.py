"""Elementwise functions of plain numbers, where no tensor is involved: ``sqrt(5)``."""

import math
from collections.abc import Callable

_GELU = math.sqrt(2 / math.pi)

NUMBERS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "cos": math.cos,
    "exp": math.exp,
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(_GELU * (x + 0.044715 * x**3))),
    "identity": lambda x: x,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "log": math.log,
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 0.5 * (1 + math.tanh(x / 2)),
    "silu": lambda x: 0.5 * x * (1 + math.tanh(x / 2)),
    "sin": math.sin,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "sqrt": math.sqrt,
    "tanh": math.tanh,
}
"""Raises ValueError or OverflowError where there is no finite value."""


def on_number(name: str, value: float) -> float:
    """A function of a number, as a tensor's element would have it: infinite, or not a number."""
    try:
        return NUMBERS[name](value)
    except OverflowError:
        return math.inf
    except ValueError:
        return -math.inf if name == "log" and value == 0 else math.nan


def power(base: float, exponent: float) -> float:
    """``base ** exponent`` in floating point."""
    try:
        found = float(base) ** exponent
    except OverflowError:
        return math.inf
    except ZeroDivisionError:
        return math.inf
    return math.nan if isinstance(found, complex) else found


def quotient(top: float, bottom: float) -> float:
    """``top / bottom`` in floating point."""
    if bottom == 0:
        return math.nan if top == 0 else math.copysign(math.inf, top)
    return top / bottom
