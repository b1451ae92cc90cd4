"""What expressions are while every tensor is as it starts."""

import pytest

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
