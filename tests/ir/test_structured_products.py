"""Structured matrices with one another: products, transposes, tokens, gradients, number types."""

import itertools
import re

import pytest
import torch
from torch import Tensor

from peftlang.emit import casts
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Level, Type, contract
from peftlang.lower import build, load
from tests.ir.structured import Matrix, train
from tests.ir.test_structured import Counted, drawn, named, written

WIDTH = 24
SQUARE: list[tuple[str, dict[str, int]]] = [
    ("diag(c)", {"d": 24}), ("circulant(c)", {"d": 24}),
    ("circulant(c)", {"p": 2, "q": 2, "d": 12}), ("skew_circulant(c)", {"d": 24}),
    ("symmetric_toeplitz(c)", {"d": 24}), ("toeplitz(c, p, q)", {"p": 24, "q": 24}),
    ("low_displacement(G, H)", {"p": 2, "d": 24}), ("kron(A, B)", {"p": 6, "q": 4, "d": 6}),
    ("block_diag(B)", {"p": 4, "q": 6, "d": 6}), ("householder(U)", {"p": 3, "d": 24}),
    ("givens(R)", {"d": 23}), ("butterfly(R)", {"p": 3, "q": 1}),
    ("banded(c, d + 2, 2)", {"d": 22}), ("triangular(c, 2 * d)", {"d": 12}),
    ("scatter(c, E, p, q)", {"d": 30, "p": 24, "q": 24}), ("cayley(skew(Q))", {"d": 24}),
    ("real(ifft2(scatter(c, E, p, q)))", {"d": 30, "p": 24, "q": 24}),
    ("tensor_train(A, B, C)", {}),
]  # fmt: skip
"""Structured matrices of one size: the text of each, and its sizes."""

TRAIN = Matrix("tensor_train(A, B, C)", {"A": ("1", "2", "3", "2"), "B": ("2", "4", "4", "3"),
                                         "C": ("3", "3", "2", "1")}, "24", "24", train)  # fmt: skip


WIDE: list[tuple[str, dict[str, int]]] = [
    ("diag(c)", {"d": 256}), ("circulant(c)", {"d": 256}), ("symmetric_toeplitz(c)", {"d": 256}),
    ("low_displacement(G, H)", {"p": 2, "d": 256}), ("kron(A, B)", {"p": 16, "q": 16, "d": 16}),
    ("block_diag(B)", {"p": 16, "q": 16, "d": 16}), ("householder(U)", {"p": 3, "d": 256}),
    ("givens(R)", {"d": 255}), ("butterfly(R)", {"p": 32, "q": 1}),
    ("banded(c, d + 2, 2)", {"d": 254}), ("scatter(c, E, p, q)", {"d": 30, "p": 256, "q": 256}),
    ("real(ifft2(scatter(c, E, p, q)))", {"d": 30, "p": 256, "q": 256}),
]  # fmt: skip
"""Those whose structure saves most, of a size at which it does."""


def lowered(
    number: int, square: list[tuple[str, dict[str, int]]] = SQUARE
) -> tuple[Expr, dict[str, Tensor], Matrix]:
    """A matrix with names of its own, the values of its tensors, and how it is written out."""
    text, sizes = square[number]
    matrix = named(text, sizes) if sizes else TRAIN
    own = {name: f"{name}_{number}" for name in matrix.tensors}
    swap = {**own, **{name: str(size) for name, size in sizes.items()}}

    def renamed(given: str) -> str:
        return re.sub(r"\w+", lambda found: swap.get(found[0], found[0]), given)

    lines = []
    for name, dims in matrix.tensors.items():
        init = f"random_entries({WIDTH}, {WIDTH})" if name == "E" else "normal"
        word = "buffer" if name == "E" else "param"
        lines.append(f"{word} {own[name]}[{', '.join(map(renamed, dims))}] ~ {init}")
    lines.append(f"let M = {renamed(matrix.text)}")
    body = "\n".join(lines)
    (use,) = build(load(f"method m() {{ position attn.q\n{body}\ncomposition h = h }}")).uses
    expr = dict(use.method.lets)["M"]
    return expr, drawn_as(own, expr, sizes), matrix


def dense_of(number: int, values: dict[str, Tensor], matrix: Matrix) -> Tensor:
    plain = {name: values[f"{name}_{number}"] for name in matrix.tensors}
    return written(matrix, plain, {"p": 1, "q": 1, "d": 1} | SQUARE[number][1])


def drawn_as(own: dict[str, str], expr: Expr, sizes: dict[str, int]) -> dict[str, Tensor]:
    found = drawn(TRAIN, {"": expr}, sizes)
    for name in found:
        if name.startswith("E_"):
            places = torch.randperm(WIDTH * WIDTH, generator=torch.Generator().manual_seed(1))[:30]
            found[name] = torch.stack([places // WIDTH, places % WIDTH], 1)
    assert found.keys() == set(own.values())
    return found


X = Ref("x", Type((Dim.of(WIDTH),), Level.TOKEN))
W = Ref("W", Type((Dim.of(5), Dim.of(WIDTH))))
V = Ref("V", Type((Dim.of(WIDTH), Dim.of(WIDTH))))


def times(*factors: Expr) -> Expr:
    """A product, from the left."""
    total = factors[0]
    for factor in factors[1:]:
        total = Apply("@", (total, factor), contract(total.type, factor.type)[0])
    return total


def turned(matrix: Expr) -> Expr:
    rows, columns = matrix.type.dims
    return Apply("transpose", (matrix,), matrix.type.with_dims(columns, rows))


def computed(expr: Expr, *values: dict[str, Tensor], half: bool = False) -> Tensor:
    held = {name: value for given in values for name, value in given.items()}
    found: Tensor = Interpreter(
        torch, {}, held.__getitem__, precise=casts.precise if half else None
    )(expr)
    return found


def given(tokens: tuple[int, int] = (2, 3)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (*tokens, WIDTH), "W": (5, WIDTH), "V": (WIDTH, WIDTH)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def apart(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max())


def single(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.float() if v.is_floating_point() else v for n, v in values.items()}


def test_products_of_each_two_are_those_of_the_dense_ones() -> None:
    base, square = given(), []
    for number in range(len(SQUARE)):
        expr, values, matrix = lowered(number)
        square.append((expr, values, dense_of(number, values, matrix)))
    for (a, own, left), (b, others, right) in itertools.product(square, square):
        for first, second, dense in (
            (a, b, left @ right),
            (turned(a), b, left.T @ right),
            (a, turned(b), left @ right.T),
        ):
            wide = computed(times(first, second, X), own, others, base)
            assert apart(wide, base["x"] @ dense.T) < 1e-9
            row = computed(times(W, first, second), *map(single, (own, others, base)))
            assert apart(row, base["W"] @ dense) < 1e-5


def test_no_product_of_two_is_written_out() -> None:
    square = [lowered(number, WIDE) for number in range(len(WIDE))]
    one = {
        name: torch.randn(shape).double()
        for name, shape in {"x": (1, 1, 256), "W": (5, 256)}.items()
    }
    x, W = (
        Ref(n, Type((*d, Dim.of(256)), level))
        for n, d, level in (("x", (), Level.TOKEN), ("W", (Dim.of(5),), Level.CONST))
    )
    for (a, own, _), (b, others, _) in itertools.product(square, square):
        for product in (times(a, b, x), times(W, a, turned(b))):
            with Counted() as found:
                computed(product, own, others, one)
            assert found.largest < 256 * 256 / 4


@pytest.mark.parametrize("number", range(len(SQUARE)), ids=[text for text, _ in SQUARE])
def test_gradients_are_those_of_the_dense_product(number: int) -> None:
    expr, values, _ = lowered(number)
    values = {n: v.requires_grad_(v.is_floating_point()) for n, v in values.items()}
    base = {n: v.requires_grad_() for n, v in given().items()}
    leaves = [v for v in (*values.values(), *base.values()) if v.requires_grad]
    made = computed(times(W, turned(expr), V, expr, X), values, base)
    dense = computed(expr, values)
    wanted = base["x"] @ (base["W"] @ dense.T @ base["V"] @ dense).T
    for got, same in zip(
        torch.autograd.grad(made.square().sum(), leaves),
        torch.autograd.grad(wanted.square().sum(), leaves),
        strict=True,
    ):
        assert apart(got, same) < 1e-9


@pytest.mark.parametrize("number", range(len(SQUARE)), ids=[text for text, _ in SQUARE])
def test_in_bfloat16_the_products_are_near(number: int) -> None:
    expr, values, matrix = lowered(number)
    dense = dense_of(number, values, matrix)
    half = {n: v.bfloat16() if v.is_floating_point() else v for n, v in values.items()}
    base = {n: v.bfloat16() for n, v in given().items()}
    found = computed(times(expr, X), half, base, half=True)
    assert found.dtype in (torch.bfloat16, torch.float32)
    assert apart(found.double(), given()["x"] @ dense.T) < 0.05
    found = computed(times(W, turned(expr)), half, base, half=True)
    assert apart(found.double(), given()["W"] @ dense.T) < 0.05


def test_complex_numbers_meet_real_ones() -> None:
    """`ifft2(F) @ x`, of a dense spectrum and of a sparse one, and `x @ ifft2(F)`."""
    F = Ref("F", Type((Dim.of(5), Dim.of(WIDTH))))
    base, spectrum = given(), {"F": torch.randn(5, WIDTH, dtype=torch.float64)}
    wave = Apply("ifft2", (F,), Type(F.type.dims, kind="complex"))
    dense = torch.fft.ifft2(spectrum["F"])
    assert apart(computed(times(wave, X), spectrum, base), (base["x"] + 0j) @ dense.T) < 1e-9
    found = computed(times(V, turned(wave)), spectrum, base)
    assert apart(found, (base["V"] + 0j) @ dense.T) < 1e-9
    sparse, values, matrix = lowered(16)
    complex_values = Apply("ifft2", (V,), Type(V.type.dims, kind="complex"))
    found = computed(times(sparse, complex_values), values, base)
    wanted = (dense_of(16, values, matrix) + 0j) @ torch.fft.ifft2(base["V"])
    assert apart(found, wanted) < 1e-9
