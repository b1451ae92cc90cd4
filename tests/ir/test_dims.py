"""Dimensions are polynomials: they obey the laws of arithmetic, and agree with numbers."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peftlang.ir.dims import Dim, Indivisible, TooComplex, UnboundDim

SYMBOLS = ("a", "b", "c")
SIZES = st.fixed_dictionaries({name: st.integers(1, 30) for name in SYMBOLS})
LEAVES = st.one_of(st.integers(0, 6).map(Dim.of), st.sampled_from(SYMBOLS).map(Dim.of))


def _combined(below: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    pairs = st.tuples(below, below)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - p[1]),
        pairs.map(lambda p: p[0] * p[1]),
    )


POLYNOMIALS = st.recursive(LEAVES, _combined, max_leaves=5)


@given(POLYNOMIALS, POLYNOMIALS, POLYNOMIALS)
def test_laws(x: Dim, y: Dim, z: Dim) -> None:
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) + z == x + (y + z)
    assert (x * y) * z == x * (y * z)
    assert x * (y + z) == x * y + x * z
    assert x - x == Dim.of(0)
    assert x + 0 == x
    assert x * 1 == x


@given(POLYNOMIALS, POLYNOMIALS, SIZES)
def test_evaluation_is_a_homomorphism(x: Dim, y: Dim, sizes: dict[str, int]) -> None:
    assert (x + y).evaluate(sizes) == x.evaluate(sizes) + y.evaluate(sizes)
    assert (x * y).evaluate(sizes) == x.evaluate(sizes) * y.evaluate(sizes)
    assert (-x).evaluate(sizes) == -x.evaluate(sizes)


@given(POLYNOMIALS, st.sampled_from(SYMBOLS))
def test_what_is_divided_and_multiplied_again_is_the_same(x: Dim, name: str) -> None:
    by = Dim.of(name)
    assert (x * by) / by == x
    assume(x != Dim.of(0))
    assert x / x == Dim.of(1)


@given(POLYNOMIALS, SIZES)
def test_a_quotient_divides_exactly_or_says_so(x: Dim, sizes: dict[str, int]) -> None:
    quotient = x / Dim.of("b")
    top, bottom = x.evaluate(sizes), sizes["b"]
    if top % bottom == 0:
        assert quotient.evaluate(sizes) * bottom == top
    else:
        with pytest.raises(Indivisible, match="not divisible by b"):
            quotient.evaluate(sizes)


@given(POLYNOMIALS, SIZES)
def test_substituting_sizes_is_evaluating(x: Dim, sizes: dict[str, int]) -> None:
    assert x.substitute(sizes).constant == x.evaluate(sizes)


def test_a_quotient_cancels_in_a_product() -> None:
    d, b = Dim.of("d"), Dim.of("b")
    assert (d / b) * b == d
    assert (d / b) * b * b == d * b
    assert ((d / b) / Dim.of("c")) * Dim.of("c") * b == d


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (Dim.of("r") * 2, "2 * r"),
        (Dim.of("d_x") / Dim.of("b"), "d_x / b"),
        ((Dim.of("d_x") + 1) / Dim.of("b"), "(d_x + 1) / b"),
        (Dim.of("l") + Dim.of("keys"), "keys + l"),
        (Dim.of("r") - 1, "r - 1"),
        (Dim.of(0), "0"),
        (Dim.of("r") ** 3, "r ** 3"),
    ],
)
def test_written(dim: Dim, text: str) -> None:
    assert str(dim) == text


def test_a_symbol_without_a_size() -> None:
    with pytest.raises(UnboundDim):
        (Dim.of("a") + 1).evaluate({})


@pytest.mark.parametrize(
    "grow",
    [
        lambda d: (d + "b") * (d + "b"),
        lambda d: d * d * 2,
        lambda d: Dim.of(1) / (d + 1),
    ],
    ids=["terms", "coefficients", "quotients"],
)
def test_bounds(grow: Callable[[Dim], Dim]) -> None:
    def grown() -> Dim:
        dim = Dim.of("a")
        for _ in range(60):
            dim = grow(dim)
        return dim

    with pytest.raises(TooComplex):
        grown()


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SYMBOLS, 2, 3]), max_size=8), st.randoms())
def test_the_order_of_factors_does_not_matter(factors: list[str | int], random: object) -> None:
    one = other = Dim.of(1)
    shuffled = list(factors)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for factor, again in zip(factors, shuffled, strict=True):
        one, other = one * factor, other * again
    assert one == other
    assert hash(one) == hash(other)
