"""Sizes that an expression needs and a site has not."""

import pytest

from peftlang.diagnostics import PeftError, Source
from peftlang.ir.plan import Site
from peftlang.lower import build, check, load
from peftlang.passes.resolve import resolved

SPEC = """method m(r: int = 2) {
    buffer B[d_h, r] ~ %s
    param  A[r, d_x] ~ zeros
    position    attn.k
    function    delta = B @ (A @ x)
}
"""


def site(d_h: int, d_x: int) -> Site:
    sizes = {"d_h": d_h, "d_x": d_x}
    return Site(id="k#attn.k", role="attn.k", path="k", weight="k.weight", dims=sizes)


def refused(text: str, d_h: int, d_x: int) -> PeftError:
    with pytest.raises(PeftError) as error:
        resolved(build(load(text)), [site(d_h, d_x)])
    return error.value


@pytest.mark.parametrize(
    ("start", "fact"),
    [
        ("transpose(part(transpose(svd_u(W, d_x)), d_x - r, r))", "`svd_u` wants 8 of the 4"),
        ("transpose(part(transpose(qr_q(W, d_x)), 0, r))", "`qr_q` wants 8 of the 4"),
        ("transpose(part(svd_v(W, d_x) @ transpose(W), 0, r))", "`svd_v` wants 8 of the 4"),
    ],
)
def test_a_matrix_has_no_more_factors_than_rows(start: str, fact: str) -> None:
    text = SPEC % start
    error = refused(text, d_h=4, d_x=8)
    assert error.code == "S426"
    assert error.message == f"`m` does not fit k#attn.k: {fact} entries of `d_h`"
    assert resolved(build(load(text)), [site(d_h=8, d_x=4)]).placements


def test_nor_than_columns() -> None:
    error = refused(SPEC % "transpose(part(transpose(svd_u(W, d_h)), 0, r))", d_h=8, d_x=4)
    assert (error.code, "wants 8 of the 4 entries of `d_x`" in error.message) == ("S426", True)


def test_what_hyper_parameters_say_is_known_without_a_model() -> None:
    text = SPEC % "svd_u(W, r)" + "method n(r: int = 2) {\n    param A[r, d_h] ~ ones\n"
    text += (
        "    position attn.k\n    composition h = h + sum(svd_s(A, 3), over 3) * sum(A, over r)\n}"
    )
    (found,) = [d for d in check([Source("s", text)]) if d.severity == "error"]
    assert found.code == "T212"
    assert "`svd_s` wants 3 of the 2 entries of `r`" in found.message


def test_a_start_that_does_not_divide() -> None:
    text = """method m {
        param s ~ sum(part(reshape(W, d_h / 3, 3 * d_x), 0, 1))
        position attn.k
        composition h = s * h
    }"""
    error = refused(text, d_h=4, d_x=8)
    assert (error.code, "4 is not divisible by 3" in error.message) == ("S408", True)
    assert resolved(build(load(text)), [site(d_h=6, d_x=8)]).placements
