"""Parameters that never get a gradient: what the text says is what training shows."""

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError, Source
from peftlang.ir.gradients import never_trained
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method
from peftlang.lower import build, check, library_names, load

SIZES = {"d_x": 3, "d_h": 4, "r": 2}


def method(tensors: str, change: str, more: str = "", hypers: str = "") -> str:
    head = f"method m(r: int = 2{hypers}) {{\n{tensors}\nposition attn.q\n"
    return f"{head}composition h = h + {change}\n{more}\n}}\n"


def used(text: str) -> Method:
    return build(load(text)).uses[0].method


ZERO_A = "param A[r, d_x] ~ zeros\n"
ZERO_B = "param B[d_h, r] ~ zeros\n"
SOME_A = "param A[r, d_x] ~ normal\n"
SOME_B = "param B[d_h, r] ~ normal\n"


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        (method(ZERO_A + ZERO_B, "B @ (A @ x)"), ["A", "B"]),
        (method(ZERO_A + ZERO_B, "B @ (A @ dropout(x, 0.1))"), ["A", "B"]),
        (method(ZERO_A + ZERO_B, "B @ gelu(A @ x)"), ["A", "B"]),
        (method(ZERO_A + ZERO_B, "B @ sigmoid(A @ x)"), []),
        (method(SOME_A + ZERO_B, "B @ (A @ x)"), []),
        (method(ZERO_A + SOME_B, "B @ (A @ x)"), []),
        (method(ZERO_A + SOME_B, "B @ relu(A @ x)"), ["A", "B"]),
        (method(ZERO_A + SOME_B + "param b_1[r] ~ ones", "B @ relu(A @ x + b_1)"), []),
        (method(ZERO_A.replace("zeros", "normal(std = 0)") + ZERO_B, "B @ (A @ x)"), ["A", "B"]),
        (method(ZERO_A + ZERO_B + "param g ~ ones", "g * (B @ (A @ x))"), ["A", "B", "g"]),
        (method(SOME_A + ZERO_B + "param g ~ zeros", "g * (B @ (A @ x))"), ["A", "B", "g"]),
        (method(SOME_A + SOME_B + "param g ~ zeros", "g * (B @ (A @ x))"), []),
        (method(SOME_A.replace("param", "buffer") + ZERO_B, "B @ (A @ x)"), []),
        (method(ZERO_A.replace("param", "buffer") + SOME_B, "B @ (A @ x)"), ["B"]),
        (method(ZERO_A + ZERO_B, "B @ (A @ x)", "penalty sum((A - 1) * (A - 1))"), []),
        (method(ZERO_A + ZERO_B, "B @ (A @ x)", "penalty sum(A * A)"), ["A", "B"]),
        (method(SOME_A + ZERO_B + "buffer B_0[d_h, r] ~ B", "(B - B_0) @ (A @ x)"), []),
        (method(ZERO_A + "buffer A_0[r, d_x] ~ A\n" + ZERO_B, "B @ ((A - A_0) @ x)"), ["A", "B"]),
        (method(SOME_A + SOME_B, "s * (B @ (A @ x))", hypers=", s: float = 0.0"), ["A", "B"]),
        (method(SOME_A + SOME_B, "s * (B @ (A @ x))", hypers=", s: float = 1.0"), []),
        (method(ZERO_A + ZERO_B, "B @ act(A @ x)", hypers=", act: fn = tanh"), ["A", "B"]),
    ],
)
def test_which_never_train(text: str, dead: list[str]) -> None:
    assert never_trained(used(text)) == dead
    found = [d for d in check([Source("s", text)]) if d.code == "M321"]
    assert len(found) == bool(dead)
    for diagnostic in found:
        assert diagnostic.severity == "warning"
        assert all(f"`{name}`" in diagnostic.message for name in dead)


def test_a_function_that_is_not_known_is_taken_for_any() -> None:
    text = method(ZERO_A + ZERO_B, "B @ act(A @ x)", hypers=", act: fn")
    assert [d for d in check([Source("s", text)]) if d.code == "M321"] == []


@pytest.mark.parametrize("name", library_names())
def test_all_of_the_library_trains(name: str) -> None:
    for use in build(load(name)).uses:
        assert never_trained(use.method) == []


TENSORS = """param z[d_h] ~ zeros
param y[d_h] ~ zeros
param n[d_h] ~ normal
param o[d_h] ~ ones
buffer k[d_h] ~ zeros
buffer c[d_h] ~ z
param Z[d_h, d_h] ~ zeros
"""
LEAVES = st.sampled_from([*"zynokch", "z", "y", "W @ x", "Z @ n", "0", "2"])
FUNCTIONS = ["relu", "abs", "gelu", "tanh", "sigmoid", "identity", "exp"]


def _larger(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, below, st.sampled_from("+-***"), below),
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS), below),
        st.builds("{}({}, over d_h)".format, st.sampled_from(["norm", "sum"]), below),
        st.builds("(Z @ ({} + 0 * h))".format, below),
    )


def trained(found: Method) -> set[str]:
    """The parameters that some steps change."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    tensors: dict[str, Any] = {"W": drawn(4, 3)}
    for tensor in found.tensors:
        shape = tuple(dim.evaluate(SIZES) for dim in tensor.dims)
        if tensor.init.expression is not None:
            made = Interpreter(torch, SIZES, tensors.__getitem__)(tensor.init.expression)
        else:
            made = INITIALISERS[str(tensor.init.name)].make(
                InitCall(torch, shape, generator, {}, ())
            )
        tensors[tensor.name] = made.detach().clone().requires_grad_(tensor.trainable)
    parameters = {t.name: tensors[t.name] for t in found.tensors if t.trainable}
    first = {name: value.detach().clone() for name, value in parameters.items()}
    for _ in range(4):
        values = {**tensors, "x": drawn(2, 3, 3), "h": drawn(2, 3, 4)}
        result = Interpreter(torch, SIZES, values.__getitem__)(found.compositions[0].value)
        loss = (result * drawn(*result.shape)).sum()
        if loss.grad_fn is None:
            return set()
        grads: Any = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            for value, grad in zip(parameters.values(), grads, strict=True):
                value -= 0.01 * (0 if grad is None else grad.clamp(-1, 1))
    return {name for name, value in parameters.items() if not torch.equal(value, first[name])}


def test_what_is_said_never_to_train_does_not() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(st.recursive(LEAVES, _larger, max_leaves=5))
    def run(change: str) -> None:
        try:
            found = used(method(TENSORS, f"0 * h + ({change})"))
        except PeftError:
            return
        dead, moved = set(never_trained(found)), trained(found)
        assert dead.isdisjoint(moved), change
        seen["dead"] += bool(dead)
        seen["moved"] += bool(moved)

    run()
    assert min(seen["dead"], seen["moved"]) > 30, seen
