"""The type rule of every builtin says what shape torch really makes."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.dims import Dim, TooComplex
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Kind, Level, Type, TypeFact
from peftlang.verifying.tokens import Tokens

NAMES = ("a", "b", "c")
ROWS, TOKENS = 2, 3

SIZES = st.fixed_dictionaries({name: st.integers(1, 4) for name in NAMES}).map(
    lambda sizes: {**sizes, "r": 2, "n": 2, "one": 1, "d_x": 6, "kv_heads": 2, "d_head": 3}
)
DIM = st.sampled_from([*map(Dim.of, NAMES), Dim.of("a") * Dim.of("b"), Dim.of("b") + 1])
KINDS: list[Kind] = ["float", "float", "int"]
LEVEL = st.sampled_from(list(Level))
LEAD = {Level.CONST: (), Level.EXAMPLE: (ROWS,), Level.TOKEN: (ROWS, TOKENS)}


Shape = tuple[Dim, ...] | Dim | str | int


def d(*dims: str) -> tuple[Dim, ...]:
    return tuple(map(Dim.of, dims))


SHAPES: dict[str, list[tuple[Shape, ...]]] = {
    "@": [(d("a", "b"), d("b")), (d("a", "b"), d("b", "c")), (d("c", "a", "b"), d("c", "b")),
          (d("a", "b"), d("b", "c", "n")), (d("a"), d("a")), (d("b"), d("b", "a")),
          (d("c", "a", "b"), d("b")), (d("c", "a", "b"), d("c", "b", "n"))],
    "scatter": [(d("a"), (Dim.of("a"), Dim.of(2)))],
    "kron": [(d("a", "b"), d("b", "c")), (d("a", "b"), d("a", "b"))],
    "block_diag": [(d("a", "b", "c"),)],
    "skew": [(d("a", "a"),), (d("b", "a", "a"),)],
    "cayley": [(d("a", "a"),), (d("b", "a", "a"),)],
    "butterfly": [(d("r", "n", "r", "r"),)],
    "circulant": [(d("a"),), (d("a", "b", "c"),)],
    "skew_circulant": [(d("a"),)],
    "symmetric_toeplitz": [(d("a"),)],
    "toeplitz": [((Dim.of("a") + Dim.of("b") - 1,), "a", "b")],
    "low_displacement": [(d("a", "b"), d("a", "b"))],
    "householder": [(d("a", "b"),)],
    "givens": [((Dim.of("a"), Dim.of(2), Dim.of(2)),)],
    "banded": [((Dim.of("a"),), "a", 0)],
    "triangular": [((Dim.of("a") * (2 * Dim.of("a") + 1),), Dim.of("a") * 2)],
    "tensor_train": [((Dim.of(1), *d("a", "b", "c")), (*d("c", "b", "a"), Dim.of(1)))],
    "copies": [(d("a", "b"), "c"), ((), "a")],
    "diag": [(d("a"),)],
    "orthonormal": [((Dim.of("a"), Dim.of("a") + Dim.of("b")),)],
    **{name: [(d("a", "a"), "a")] for name in ("svd_u", "svd_s", "svd_v", "qr_q", "qr_r")},
    "train_core": [((Dim.of("a") * Dim.of("b"), Dim.of("c") * Dim.of("a")), 1, "r", *"abca")],
    "part": [((Dim.of("a") + Dim.of("b"),), 0, "a"),
             ((Dim.of("a") + Dim.of("b"), Dim.of("c")), "b", "a")],
    "attend": [(d("a", "b"), d("c", "a", "b"), d("c", "a", "b"))],
    "scores": [(d("a", "b"), d("c", "a", "b"))],
    "mix": [(d("a", "c"), d("c", "a", "b"))],
    "prefix_mass": [(d("a", "b"), d("c", "a", "b"), d("n", "a", "b"))],
    "conv": [(d("a"), d("a", "b")), (d("a"), d("c", "a", "n"))],
    "conv2": [(d("a"), d("a", "b", "n")), (d("a"), d("c", "a", "n", "r"))],
    "self_attention": [(d("a"),) * 3, (d("c", "a"),) * 3],
    "topk": [(d("a", "b"), "one")],
    "chosen": [(d("a", "b"), "one"), (d("a"), "one")],
    **{name: [(d("a", "d_x"),), (d("d_x"),)] for name in ("project_k", "project_v")},
    "concat": [(d("a", "b"), d("c", "b")), (d("a"), d("b"), d("a"))],
    "index": [(d("a", "b"), ()), (d("a"), ()), (d("a", "b"), d("c"))],
    "reshape": [(d("a", "b"), "b", "a"), ((Dim.of("a") * Dim.of("b"),), "a", "b"),
                (d("a", "b", "c"), "c", "a", "b")],
}  # fmt: skip


ALONG = {"conv": 1, "conv2": 1, "sequence_norm": 1, "pool": 1, "self_attention": 3}
"""How many operands of a function along the sequence are of each token."""

ATTENTION = ("attend", "scores", "mix", "prefix_mass")


@dataclass
class OneSite:
    """What builtins ask of an attention product; here its heads are the keys' heads."""

    sizes: dict[str, int]

    def scores(self, queries: Any, keys: Any) -> Any:
        return torch.einsum("bthd,nhd->bthn", queries, keys)

    def mix(self, weights: Any, values: Any) -> Any:
        return torch.einsum("bthn,nhd->bthd", weights, values)

    def project(self, part: str, rows: Any) -> Any:
        heads, width = (self.sizes[name] for name in ("kv_heads", "d_head"))
        return (rows @ torch.ones(rows.shape[-1], heads * width)).unflatten(-1, (heads, width))

    def log_normaliser(self) -> Any:
        return torch.zeros(())

    def token_mask(self, keywords: Any) -> Any:
        return torch.ones(ROWS, TOKENS)

    @property
    def sequence(self) -> Tokens:
        return Tokens(torch.zeros(ROWS, TOKENS), causal=False)

    def average(self, value: Any, have: Type) -> Any:
        return value.mean(list(range(have.level)))


def value(type_: Type, sizes: dict[str, int]) -> torch.Tensor:
    shape = LEAD[type_.level] + tuple(dim.evaluate(sizes) for dim in type_.dims)
    if type_.kind == "int":
        return torch.zeros(shape, dtype=torch.long)
    return torch.randn(shape)


def checked(op: str, args: tuple[Expr, ...], over: tuple[Dim, ...], sizes: dict[str, int]) -> bool:
    """Whether the rule accepts the operands; if so the evaluated shape must be what it says."""
    try:
        type_ = BUILTINS[op].rule(Signature(args, {}, over))
    except (TypeFact, TooComplex):
        return False
    values = {arg.name: value(arg.type, sizes) for arg in args if isinstance(arg, Ref)}
    interpret = Interpreter(torch, sizes, values.__getitem__, training=True, site=OneSite(sizes))
    try:
        found = interpret(Apply(op, args, type_, (), over))
    except PeftError as error:
        if error.code != "S408":  # sizes that do not fit together
            raise
        return False
    shape = tuple(getattr(found, "shape", ()))
    assert shape == LEAD[type_.level] + tuple(dim.evaluate(sizes) for dim in type_.dims)
    if type_.kind in ("float", "complex") and isinstance(found, torch.Tensor):
        assert found.is_complex() == (type_.kind == "complex")
    return True


def operands(data: st.DataObject, op: str) -> tuple[Expr, ...]:
    """Operands of the shapes that the builtin is for, at random levels."""
    entry = BUILTINS[op]
    shapes: tuple[Shape, ...]
    if op in SHAPES:
        shapes = data.draw(st.sampled_from(SHAPES[op]))
    else:
        count = data.draw(st.integers(*entry.arity))
        first = tuple(data.draw(st.lists(st.sampled_from(d(*NAMES)), max_size=3, unique=True)))
        part = tuple(data.draw(st.permutations(first)))[: data.draw(st.integers(0, 3))]
        shapes = (first, part)[:count]
    args: list[Expr] = []
    for place, shape in enumerate(shapes):
        if not isinstance(shape, tuple):
            args.append(DimValue(Dim.of(shape), Type(kind="int")))
            continue
        whole = place == 1 and op in ("scatter", "index")
        level = data.draw(LEVEL)
        if op in ALONG:
            level = Level.TOKEN if place < ALONG[op] else Level.CONST
        if op in ATTENTION:
            level = (Level.TOKEN, Level.CONST, Level.EXAMPLE)[
                place if op == "prefix_mass" else min(place, 1)
            ]
        name = "k" if op == "prefix_mass" and place == 2 else f"t{place}"
        args.append(Ref(name, Type(shape, level, "int" if whole else "float")))
    if op == "scatter":
        args += [DimValue(dim, Type(kind="int")) for dim in d("b", "c")]
    if op in ("token_is", "occurrence", "soft"):
        own: list[Expr] = [DimValue(Dim.of("b"), Type(kind="int")), Number(3, Type(kind="int"))]
        args = own[1:] if op == "token_is" else own[: entry.arity[0]]
    if op in ("dropout", "jitter"):
        args[1:] = [Number(0.5)]
    if op == "train_core":
        args[1] = Number(data.draw(st.integers(1, 2)))
    return tuple(args)


def over_of(data: st.DataObject, op: str, args: tuple[Expr, ...]) -> tuple[Dim, ...]:
    if not BUILTINS[op].over or not args[0].type.dims:
        return ()
    return (data.draw(st.sampled_from(args[0].type.dims)),)


@pytest.mark.parametrize("op", sorted(BUILTINS))
def test_shape_is_what_the_rule_says(op: str) -> None:
    accepted = 0

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.data(), SIZES)
    def run(data: st.DataObject, sizes: dict[str, int]) -> None:
        nonlocal accepted
        args = operands(data, op)
        accepted += checked(op, args, over_of(data, op, args), sizes)

    run()
    assert accepted, f"no operands of {op} were accepted, so nothing was tested"


@pytest.mark.parametrize("op", sorted(BUILTINS))
def test_rules_accept_nothing_that_cannot_be_computed(op: str) -> None:
    """Operands of any shape, or numbers: refused with a fact, or computed to the promised shape."""

    @settings(max_examples=120, deadline=None, derandomize=True, database=None)
    @given(st.data(), SIZES)
    def run(data: st.DataObject, sizes: dict[str, int]) -> None:
        least, most = BUILTINS[op].arity
        count = data.draw(st.integers(least, max(least, min(most, 4))))
        args: list[Expr] = []
        for place in range(count):
            dims = tuple(data.draw(st.lists(DIM, max_size=4)))
            kind: Kind = data.draw(st.sampled_from(KINDS))
            if data.draw(st.integers(0, 4)) == 0:
                value = data.draw(st.sampled_from([0, 1, 2, 0.5, -1.5]))
                number = Type(kind="int" if isinstance(value, int) else "float")
                args.append(Number(value, number))
            else:
                args.append(Ref(f"t{place}", Type(dims, data.draw(LEVEL), kind)))
        checked(op, tuple(args), over_of(data, op, tuple(args)), sizes)

    run()
