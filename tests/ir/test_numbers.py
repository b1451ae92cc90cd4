"""Functions of plain numbers agree with torch's on one element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.numbers import NUMBERS, on_number, power, quotient
from peftlang.ir.expr import Apply, Number, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Type


def no_tensor(name: str) -> torch.Tensor:
    raise KeyError(name)


FINITE = st.floats(-20, 20, allow_nan=False)


def test_every_elementwise_function_has_a_number_form() -> None:
    named = {name for name, entry in BUILTINS.items() if entry.activation} | {"sqrt"}
    assert named == set(NUMBERS)


@pytest.mark.parametrize("name", sorted(NUMBERS))
@given(x=FINITE)
def test_a_number_and_a_tensor_give_the_same(name: str, x: float) -> None:
    tensor = torch.tensor(x, dtype=torch.float64)
    of_tensor = Interpreter(torch, {}, {"t": tensor}.__getitem__)(
        Apply(name, (Ref("t", Type()),), Type())
    )
    of_number = Interpreter(torch, {}, no_tensor)(Apply(name, (Number(x),), Type()))
    assert isinstance(of_number, float)
    assert of_number == pytest.approx(of_tensor.item(), rel=1e-9, abs=1e-12, nan_ok=True)


@given(FINITE, FINITE)
def test_quotients_and_powers_never_raise(a: float, b: float) -> None:
    assert isinstance(quotient(a, b), float)
    assert isinstance(power(a, b), float)


def test_what_has_no_finite_value() -> None:
    assert on_number("exp", 1e6) == math.inf
    assert on_number("log", 0) == -math.inf
    assert math.isnan(on_number("sqrt", -1))
    assert power(10, 1e6) == math.inf
    assert quotient(-1, 0) == -math.inf
