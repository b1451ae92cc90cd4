"""What expressions are while every tensor is as it starts."""

import time
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError
from peftlang.ir.inits import INITIALISERS, InitCall
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method
from peftlang.ir.proofs import starts_at_the_base
from peftlang.lower import build, load


def method(tensors: str, change: str) -> Method:
    text = f"""method m(r: int = 4) {{
        {tensors}
        position attn.q
        composition h = h + ({change})
    }}"""
    (use,) = build(load(text)).uses
    return use.method


FROM_W = """param A[r, d_x] ~ svd_v(W, r)
        param B[d_h, r] ~ svd_u(W, r)
        buffer A_0[r, d_x] ~ A
        buffer B_0[d_h, r] ~ {start}
"""


@pytest.mark.parametrize(("start", "verdict"), [("B", "proved"), ("2.0 * B", "undecided")])
def test_a_tensor_that_starts_as_another_is_that_one(start: str, verdict: str) -> None:
    found = method(FROM_W.format(start=start), "B @ (A @ x) - B_0 @ (A_0 @ x)")
    assert starts_at_the_base(found).verdict == verdict


def test_two_random_tensors_are_not_one() -> None:
    tensors = "param a[d_h] ~ normal\nbuffer c[d_h] ~ normal\nbuffer e[d_h] ~ a\n"
    assert starts_at_the_base(method(tensors, "a * (a - e)")).verdict == "proved"
    assert starts_at_the_base(method(tensors, "e * (a - c)")).verdict == "undecided"


def test_a_long_chain_of_starts_is_followed_once() -> None:
    lines = ["param t0[d_h] ~ zeros"]
    lines += [f"param t{i}[d_h] ~ t{i - 1} + t{i - 1}" for i in range(1, 60)]
    assert starts_at_the_base(method("\n".join(lines), "t59")).verdict == "proved"


@pytest.mark.parametrize(
    ("tensors", "change", "verdict"),
    [
        ("param A[d_h, d_x] ~ zeros", "(A / A) @ x", "refuted"),
        ("param A[d_h, d_x] ~ zeros", "0 * (A / A) @ x", "refuted"),
        ("param A[d_h, d_x] ~ normal(std = 0)", "(A / A) @ x", "refuted"),
        ("param A[d_h, d_x] ~ zeros", "h / (A @ x)", "refuted"),
        ("param A[d_h, d_x] ~ zeros", "0 * log(A @ x)", "refuted"),
        ("param a[d_h] ~ zeros", "a * log(a)", "refuted"),
        ("param a[d_h] ~ zeros", "a * sqrt(a - 1)", "refuted"),
        ("param a[d_h] ~ zeros", "a / relu(h)", "undecided"),
        ("param a[d_h] ~ zeros", "a * (1 / h)", "undecided"),
        ("param a[d_h] ~ zeros", "a * sqrt(h)", "undecided"),
        ("param a[d_h] ~ zeros", "a * log(h)", "undecided"),
        ("param a[d_h] ~ zeros", "a * h ** -1", "undecided"),
        ("param a[d_h] ~ zeros", "a * rms_norm(h, over d_h, eps = 0)", "undecided"),
        ("param a[d_h] ~ bernoulli(0.5)\nbuffer c[d_h] ~ a", "a / c - 1", "undecided"),
        ("param a[d_h] ~ uniform", "a - a", "proved"),
        ("param a[d_h] ~ zeros", "a * log(h * h + 1)", "proved"),
        ("param a[d_h] ~ zeros", "a / exp(h)", "proved"),
        ("param a[d_h] ~ zeros", "a * sqrt(norm(h, over d_h))", "proved"),
        ("param a[d_h] ~ zeros", "a / r", "proved"),
        ("param a[d_h] ~ zeros", "a / layer", "undecided"),
        ("param a[d_h] ~ zeros", "a / norm(W, over d_x)", "proved"),
        ("param a[d_h] ~ zeros\nparam R[r, d_x] ~ normal",
         "a / sum(topk(softmax(R @ x, over r), 1, over r), over r)", "proved"),
        ("param a[r] ~ zeros\nparam R[r, d_x] ~ normal\nparam B[d_h, r] ~ ones",
         "B @ (a / topk(softmax(R @ x, over r), 1, over r))", "undecided"),
        ("param m[d_h] ~ norm(W, over d_x)", "(m / norm(W, over d_x) - 1) * h", "proved"),
    ],
)  # fmt: skip
def test_a_division_is_one_only_where_it_is_defined(
    tensors: str, change: str, verdict: str
) -> None:
    assert starts_at_the_base(method(tensors, change)).verdict == verdict


def test_two_long_chains_that_are_alike_are_compared_once() -> None:
    lines = ["param a[d_h] ~ ones"]
    for name in ("u", "v"):
        lines += [f"let {name}0 = a * h"]
        lines += [f"let {name}{i} = {name}{i - 1} + {name}{i - 1}" for i in range(1, 80)]
    start = time.process_time()
    assert starts_at_the_base(method("\n".join(lines), "u79 - v79")).verdict == "proved"
    assert time.process_time() - start < 5


TENSORS = """param z[d_h] ~ zeros
    param o[d_h] ~ ones
    param n[d_h] ~ normal
    param c[d_h] ~ constant(-2)
    param t[d_h] ~ normal(mean = 0.5, std = 0)
    param e[d_h] ~ bernoulli(0.5)
    buffer k[d_h] ~ n
    param m[d_h] ~ norm(W, over d_x)
"""
LEAVES = st.sampled_from([*"zonctekmhb", "W @ x", "0", "1", "r", "norm(W, over d_x)"])
FUNCTIONS = ["relu", "abs", "sqrt", "exp", "log", "tanh", "sigmoid", "softplus", "stop_gradient"]
OVER = ["norm", "sum", "mean", "max"]


def _larger(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, below, st.sampled_from("+-*/"), below),
        st.builds("{}({})".format, st.sampled_from(FUNCTIONS), below),
        st.builds("{}({}, over d_h)".format, st.sampled_from(OVER), below),
        st.builds("rms_norm({}, over d_h)".format, below),
    )


CHANGES = st.recursive(LEAVES, _larger, max_leaves=5)


def started(found: Method, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """The tensors as they start, and values of the site, some of which are zero."""
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {"x": drawn(2, 3, sizes["d_x"]), "h": drawn(2, 3, sizes["d_h"]).relu()}
    values |= {"W": drawn(sizes["d_h"], sizes["d_x"]), "b": torch.zeros(sizes["d_h"]).double()}
    interpret = Interpreter(torch, sizes, values.__getitem__)
    for tensor in found.tensors:
        shape = tuple(dim.evaluate(sizes) for dim in tensor.dims)
        if tensor.init.expression is not None:
            values[tensor.name] = interpret(tensor.init.expression)
            continue
        args = tuple(map(interpret, tensor.init.args))
        keywords = {key: interpret(value) for key, value in tensor.init.keywords}
        made = INITIALISERS[str(tensor.init.name)].make(
            InitCall(torch, shape, generator, keywords, args)
        )
        values[tensor.name] = made.double()
    return values


def test_what_is_proved_is_so_and_what_is_undefined_is_not_finite() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(CHANGES, st.sampled_from(["h + z * ({})", "h + ({})", "h * ({})", "h - ({}) * (n - k)"]))
    def run(change: str, whole: str) -> None:
        text = f"method m(r: int = 4) {{ {TENSORS} position attn.q composition h = "
        try:
            found = build(load(text + whole.format(change) + "\n}")).uses[0].method
        except PeftError:
            return
        proof, sizes = starts_at_the_base(found), {"d_x": 3, "d_h": 5, "r": 4}
        values = started(found, sizes)
        result = Interpreter(torch, sizes, values.__getitem__)(found.compositions[0].value)
        seen[proof.verdict] += 1
        if proof.verdict == "proved":
            torch.testing.assert_close(result, values["h"])
        if "undefined" in proof.reason:
            assert not result.isfinite().all()
            seen["undefined"] += 1

    run()
    assert min(seen[kind] for kind in ("proved", "refuted", "undecided", "undefined")) > 5, seen
