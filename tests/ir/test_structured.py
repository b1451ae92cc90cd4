"""Structured matrices: the dense one is what the definition says, and the fast product is its."""

import itertools
from collections.abc import Collection
from functools import partial
from math import log2
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.products import Arranger, product_of, work_of
from peftlang.ir.types import Level, Type
from peftlang.lower import build, load
from tests.ir.structured import MATRICES, Matrix

SIZES = st.fixed_dictionaries({name: st.integers(1, 5) for name in "pqdn"})

PRODUCTS = {
    "dense": "M",
    "column": "M @ v",
    "columns": "M @ V",
    "row": "u @ M",
    "rows": "U_ @ M",
    "back": "transpose(M) @ u",
    "twice": "transpose(M) @ M @ v",
    "scaled": "(0.5 * M / 3.0) @ v",
    "between": "U_ @ transpose(transpose(M))",
}


def lets(matrix: Matrix) -> dict[str, Expr]:
    """The products, lowered."""
    tensors = {**matrix.tensors, "v": (matrix.columns,), "V": (matrix.columns, "n"),
               "u": (matrix.rows,), "U_": ("3", matrix.rows)}  # fmt: skip
    lines = []
    for name, dims in tensors.items():
        init = "random_entries(p, q)" if name == "E" else "normal"
        word = "buffer" if name == "E" else "param"
        lines.append(f"{word} {name}[{', '.join(dims)}] ~ {init}")
    lines += [f"let M = {matrix.text}"]
    lines += [f"let {name} = {text}" for name, text in PRODUCTS.items()]
    body = "\n".join(lines)
    text = (
        "method m(p: int = 2, q: int = 3, d: int = 4, n: int = 2) {\nposition attn.q\n"
        f"{body}\ncomposition h = h\n}}"
    )
    (use,) = build(load(text)).uses
    return dict(use.method.lets)


def drawn(matrix: Matrix, exprs: dict[str, Expr], sizes: dict[str, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes.values()))
    found: dict[str, Tensor] = {}
    for node in postorder(*exprs.values()):
        name = getattr(node, "name", None)
        if name is None or name in found:
            continue
        shape = [dim.evaluate(sizes) for dim in node.type.dims]
        if name == "E":
            flat = torch.randint(sizes["p"] * sizes["q"], shape[:1], generator=generator)
            found[name] = torch.stack([flat // sizes["q"], flat % sizes["q"]], dim=1)
        else:
            found[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found


def written(matrix: Matrix, values: dict[str, Tensor], sizes: dict[str, int]) -> Tensor:
    tensors = [values[name] for name in matrix.tensors]
    return matrix.written(*tensors, *(sizes[name] for name in matrix.sizes))


def expected(dense: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    v, u = values["v"], values["u"]
    return {
        "dense": dense, "column": dense @ v, "columns": dense @ values["V"], "row": u @ dense,
        "rows": values["U_"] @ dense, "back": dense.T @ u, "twice": dense.T @ (dense @ v),
        "scaled": dense @ v / 6, "between": values["U_"] @ dense,
    }  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES, ids=[f"{m.text}-{i}" for i, m in enumerate(MATRICES)])
def test_products_are_those_of_the_matrix_written_out(matrix: Matrix) -> None:
    exprs = lets(matrix)

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(SIZES)
    def run(sizes: dict[str, int]) -> None:
        values = drawn(matrix, exprs, sizes)
        want = expected(written(matrix, values, sizes), values)
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
            held = {n: t if n == "E" else t.to(dtype) for n, t in values.items()}
            interpret = Interpreter(torch, sizes, held.__getitem__)
            for name in PRODUCTS:
                got = interpret(exprs[name])
                assert got.dtype == dtype
                error = (got - want[name]).abs().max() / want[name].abs().max().clamp(min=1)
                assert error < tolerance, (name, error)

    run()


class Counted(TorchDispatchMode):
    """Operations as they run: what torch counts, transforms, and one for each element made."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.largest = 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        made = [value for value in (out if isinstance(out, tuple) else (out,)) if value is not None]
        self.largest = max([self.largest, *(value.numel() for value in made)])
        if func.overloadpacket in flop_registry:
            work = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.flops += work * (4 if out.is_complex() else 1)
        elif name.startswith("_fft"):
            real = out if name == "_fft_c2r" else args[0]
            numbers = real.numel() * (2 if real.is_complex() else 1)
            self.flops += 2.5 * numbers * log2(real.shape[-1])
        elif name == "linalg_solve_triangular":
            self.flops += args[0].shape[-1] ** 2 * args[1].shape[-1]
        elif name == "_linalg_solve_ex":
            width = args[0].shape[-1]
            self.flops += 2 * width**3 / 3 + 2 * width * args[1].numel()
        elif name in ("add", "sub", "mul", "neg", "index_add") and made[0].dtype != torch.long:
            self.flops += out.numel() * (3 if out.is_complex() else 1)
        return out


GROWING = [
    ("diag(c)", {"d": 64}, 0, 4), ("circulant(c)", {"d": 64}, 5.4, 5.4),
    ("circulant(c)", {"p": 8, "q": 8, "d": 16}, 96, 64),
    ("skew_circulant(c)", {"d": 64}, 5.4, 5.4), ("symmetric_toeplitz(c)", {"d": 64}, 5.4, 5.4),
    ("toeplitz(c, p, q)", {"p": 64, "q": 64}, 5.4, 5.4),
    ("low_displacement(G, H)", {"p": 2, "d": 64}, 5.4, 5.4),
    ("kron(A, B)", {"p": 8, "q": 8, "d": 8}, 0, 64),
    ("block_diag(B)", {"p": 64, "q": 4, "d": 4}, 0, 4),
    ("householder(U)", {"p": 4, "d": 64}, 4.1, 4.1), ("givens(R)", {"d": 63}, 0, 4.1),
    ("banded(c, d, 0)", {"d": 64}, 0, 4), ("banded(c, d + 2, 2)", {"d": 64}, 0, 4.1),
    ("scatter(c, E, p, q)", {"d": 64, "p": 64, "q": 64}, 0, 4),
    ("butterfly(R)", {"p": 8, "q": 1}, 0, 4),
    ("tensor_train(A, B, C)", {"p": 4, "q": 4, "d": 2}, 0, 260),
    ("triangular(c, 2 * d)", {"d": 32}, 0, 16), ("cayley(skew(Q))", {"d": 64}, 64, 16),
    ("real(ifft2(scatter(c, E, p, q)))", {"d": 64, "p": 64, "q": 64}, 0, 5.4),
    ("real(ifft2(fft2(kron(A, B))))", {"p": 8, "q": 8, "d": 8}, 0, 64),
]  # fmt: skip
"""A matrix, sizes, and how many times the work there is at most, once and for each vector, when
the sizes over 4 are four times."""


def named(text: str, sizes: Collection[str]) -> Matrix:
    """The matrix of this text whose tensors have all these sizes."""
    found = (m for m in MATRICES if m.text == text)
    return next(m for m in found if all(n in str((m.tensors, m.sizes)) for n in sizes))


def counted(matrix: Matrix, sizes: dict[str, int], n: int) -> tuple[float, float]:
    """Operations of a product with so many vectors, as they run and as the table says."""
    product, at = lets(matrix)["columns"], sizes | {"n": n}
    values = drawn(matrix, {"": product}, at)
    with Counted() as found:
        Interpreter(torch, at, values.__getitem__)(product)
    assert isinstance(product, Apply)
    node = product_of(product)
    assert node is not None
    rows, columns = (dim.evaluate(at) for dim in node.matrix.type.dims)
    given = max(tensor.numel() for name, tensor in values.items() if name != "V")
    assert found.largest < max(rows * columns / 2, given + 1), "the matrix was written out"
    return found.flops, work_of(product, partial(Dim.evaluate, env=at))


@pytest.mark.parametrize(
    ("text", "sizes", "once", "each"), GROWING, ids=[f"{g[0]}-{i}" for i, g in enumerate(GROWING)]
)
def test_the_cost_of_a_product_is_what_the_table_says_and_grows_so(
    text: str, sizes: dict[str, int], once: float, each: float
) -> None:
    """As straight lines in the number of vectors: what is done once, and for each."""
    lines = []
    for times in (1, 4):
        at = {"p": 1, "q": 1, "d": 1} | {n: s * times if s > 4 else s for n, s in sizes.items()}
        (few, said_few), (more, said_more) = (counted(named(text, sizes), at, n) for n in (1, 3))
        slope, said = (more - few) / 2, (said_more - said_few) / 2
        assert 0.4 < few / said_few < 2.5, (few, said_few)
        assert 0.4 < slope / said < 2.5, (slope, said)
        lines.append((few - slope, slope))
    assert lines[1][1] / lines[0][1] <= each
    assert lines[1][0] <= once * lines[0][0] + 1e-6 * lines[1][1], lines


def chained(text: str, **shapes: tuple[str, ...]) -> Expr:
    """The expression ``text`` of tensors of these shapes, lowered."""
    tensors = "\n".join(f"param {n}[{', '.join(dims)}] ~ normal" for n, dims in shapes.items())
    source = f"method m(r: int = 2) {{ position attn.q\n{tensors}\ncomposition h = h + {text} }}"
    (use,) = build(load(source)).uses
    found: Expr = use.method.compositions[0].value.args[1]
    return found


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("(B @ A) @ x", "B @ (A @ x)"),
        ("(2.0 * (B @ A)) @ x", "(B @ (A @ x)) * 2.0"),
        ("transpose(transpose(A) @ transpose(B)) @ x", "B @ (A @ x)"),
        ("W @ transpose(W) @ B @ A @ x", "(W @ (transpose(W) @ B)) @ (A @ x)"),
        ("B @ (A @ x)", "B @ (A @ x)"),
        ("B @ (C @ D @ A) @ x", "(B @ (C @ D)) @ (A @ x)"),
    ],
)
def test_a_chain_of_products_takes_its_cheapest_order(text: str, order: str) -> None:
    shapes = {"A": ("r", "d_x"), "B": ("d_h", "r"), "C": ("r", "r"), "D": ("r", "r")}
    expr = chained(text, **{name: dims for name, dims in shapes.items() if name in text})
    sizes = {"d_x": 64, "d_h": 48, "r": 4}
    arranged = Arranger(lambda dim: dim.evaluate(sizes))(expr)
    assert shown(arranged) == order, shown(arranged)
    values = {
        node.name: torch.randn([d.evaluate(sizes) for d in node.type.dims]).double()
        for node in postorder(expr)
        if isinstance(node, Ref)
    }
    x = values["x"] = torch.randn(2, 3, 64, dtype=torch.float64)
    dense = eval(text, {"transpose": torch.t}, values | {"x": torch.eye(64).double()})  # noqa: S307
    torch.testing.assert_close(Interpreter(torch, sizes, values.__getitem__)(expr), x @ dense.T)


def test_a_vector_between_matrices_keeps_its_place() -> None:
    """`(A @ x) @ M` sums what `A @ x` has, which no `x @ M` could begin with."""
    expr = chained("2.0 * ((A @ x) @ M)", A=("r", "d_x"), M=("r", "d_h"))
    sizes = {"d_x": 6, "d_h": 5, "r": 2}
    values = {
        node.name: torch.randn([d.evaluate(sizes) for d in node.type.dims])
        for node in postorder(expr)
        if isinstance(node, Ref)
    }
    x = values["x"] = torch.randn(2, 3, 6)
    found = Interpreter(torch, sizes, values.__getitem__)(expr)
    torch.testing.assert_close(found, 2 * x @ values["A"].T @ values["M"])


def shown(expr: Expr) -> str:
    if isinstance(expr, Apply) and expr.op in "@*":
        parts = [
            f"({shown(a)})" if isinstance(a, Apply) and a.op in "@*" else shown(a)
            for a in expr.args
        ]
        return f" {expr.op} ".join(parts)
    if isinstance(expr, Apply):
        return f"{expr.op}({', '.join(map(shown, expr.args))})"
    return str(getattr(expr, "name", getattr(expr, "value", "?")))


def test_a_kronecker_product_of_what_is_not_contiguous() -> None:
    """`kron(transpose(A), …)`: torch refuses the strides of a transposed matrix."""
    dims = [Dim.of(size) for size in (3, 2, 4, 5)]
    refs = (Ref("a", Type(tuple(dims[:2]))), Ref("b", Type(tuple(dims[2:]))))
    product = Apply("kron", refs, Type((dims[0] * dims[2], dims[1] * dims[3])))
    held = {"a": torch.randn(2, 3).T, "b": torch.randn(4, 5)}
    got = Interpreter(torch, {}, held.__getitem__)(product)
    torch.testing.assert_close(got, torch.kron(*(m.contiguous() for m in held.values())))


def test_a_kronecker_product_of_what_differs_from_token_to_token() -> None:
    """A constant kernel times a matrix of each token: the product of each, one by one."""
    a, b = Type(tuple(map(Dim.of, (2, 3)))), Type(tuple(map(Dim.of, (4, 5))), Level.TOKEN)
    held = {"a": torch.randn(2, 3), "b": torch.randn(2, 3, 4, 5)}
    for names in ("ab", "ba"):
        left, right = ({"a": a, "b": b}[name] for name in names)
        dims = tuple(i * j for i, j in zip(left.dims, right.dims, strict=True))
        refs = (Ref(names[0], left), Ref(names[1], right))
        got = Interpreter(torch, {}, held.__getitem__)(
            Apply("kron", refs, BUILTINS["kron"].rule(Signature(refs)))
        )
        assert got.shape == (2, 3, *(dim.constant for dim in dims))
        for row, token in itertools.product(range(2), range(3)):
            one = held | {"b": held["b"][row, token]}
            wanted = torch.kron(one[names[0]], one[names[1]])
            torch.testing.assert_close(got[row, token], wanted)
