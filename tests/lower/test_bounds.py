"""Hostile sizes: no recursion error, and never more than seconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from peftlang.diagnostics import Source
from peftlang.lower import build, check, load

HEAD = "method m(r: int = 8) {\n    param p[d_h] ~ zeros\n    position ffn\n"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def codes(text: str) -> set[str]:
    return {d.code for d in check([Source("s", text)]) if d.severity == "error"}


def test_a_chain_of_ten_thousand_lets() -> None:
    lets = "\n".join(f"    let u{i} = u{i + 1} + p" for i in range(10_000))
    text = f"{HEAD}{lets}\n    let u10000 = h\n    function delta = u0\n}}\n"
    with within(10):
        adapter = build(load(text))
        assert adapter.uses[0].method.function is not None
        assert adapter.source.count("\n") > 10_000


def test_a_circle_of_ten_thousand_lets() -> None:
    lets = "\n".join(f"    let u{i} = u{(i + 1) % 10_000}" for i in range(10_000))
    with within(10):
        assert "N109" in codes(f"{HEAD}{lets}\n    function delta = p * h\n}}\n")


def test_a_let_that_doubles_each_time_is_one_node() -> None:
    lets = "\n".join(f"    let u{i + 1} = u{i} * u{i}" for i in range(2_000))
    text = f"{HEAD}    let u0 = p\n{lets}\n    function delta = u2000 * h\n}}\n"
    with within(10):
        assert build(load(text)).uses


@pytest.mark.parametrize(
    "step",
    [
        lambda i: f"outer(u{i}, u{i})",
        lambda i: f"kron(u{i}, u{i})",
        lambda i: f"concat(u{i}, u{i})",
    ],
    ids=["outer", "kron", "concat"],
)
def test_types_that_grow(step: Callable[[int], str]) -> None:
    lets = "\n".join(f"    let u{i + 1} = {step(i)}" for i in range(200))
    text = f"{HEAD}    param M[r, d_h] ~ ones\n    let u0 = M\n{lets}\n    function d = u200\n}}\n"
    with within(10):
        assert codes(text) == {"T213"}


def test_parameters_that_move_one_after_the_other() -> None:
    lines = ["    param a0[d_h] ~ ones", "    let u0 = h"]
    for i in range(1, 2_000):
        lines += [f"    param a{i}[d_h] ~ zeros", f"    let u{i} = u{i - 1} + a{i} * a{i - 1}"]
    declared = "\n".join(lines)
    text = f"method m {{\n{declared}\n    position ffn\n    composition h = u1999\n}}\n"
    with within(20):
        assert codes(text) == set()


def test_numbers_that_grow() -> None:
    squares = "\n".join(f"    let u{i + 1} = u{i} * u{i}" for i in range(300))
    text = f"{HEAD}    let u0 = r\n{squares}\n    function delta = (p * h) * u300\n}}\n"
    with within(10):
        codes(text)
    for default in ("2 ** 1000000000", "9 ** 9 ** 9", "10 ** 15 * 10 ** 15", "1e308 * 10"):
        text = f"method m(r: float = {default}) {{\n composition h = r * h\n}}\n"
        with within(5):
            assert codes(text) & {"T212", "T204"}


def test_dimensions_that_grow() -> None:
    for dims in (
        "(a + b + d_x) ** 8 * (a + b + d_h) ** 8",
        "a ** 8 * a ** 8 * a ** 8 * a ** 8 * a ** 8",
        "1 / (1 + 1 / (1 + 1 / (1 + 1 / (1 + 1 / (1 + a)))))",
        "9007199254740993 * 9007199254740993",
    ):
        text = f"method m(a: int = 2, b: int = 2) {{\n param p[{dims}] ~ ones\n"
        text += " composition h = sum(p) * h\n}\n"
        with within(5):
            assert codes(text) & {"T213", "T212"}, dims


def test_conditions_that_multiply() -> None:
    one = "(d_h > 1 or d_x > 1)"
    text = f"{HEAD.replace('ffn', 'ffn where ' + ' and '.join([one] * 60))}"
    with within(5):
        assert "S424" in codes(text + "    function delta = p * h\n}\n")


def test_adapters_that_multiply() -> None:
    method = f"{HEAD}    function delta = p * h\n}}\nadapter a0 {{\n m()\n m()\n}}\n"
    more = "\n".join(f"adapter a{i + 1} {{\n a{i}()\n a{i}()\n}}" for i in range(30))
    with within(20):
        assert codes(method + more) == {"M312"}


def test_a_thousand_methods_are_checked_in_seconds() -> None:
    one = "method m%d(r: int = 8) {\n param A[r, d_x] ~ normal\n param B[d_h, r] ~ zeros\n"
    one += " position attn.q\n function delta = B @ (A @ x)\n}\n"
    with within(20):
        assert codes("".join(one % number for number in range(1_000))) == set()
