"""Random expressions through the whole checker: each is refused with codes, or torch agrees."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlang.diagnostics import CODES, Source, render
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Level, Type
from peftlang.lower import build, check, load
from peftlang.verifying.tokens import Tokens
from tests.lower import dumps

ROWS, TOKENS = 2, 3
SIZES = {
    "d_x": 4,
    "d_h": 6,
    "r": 2,
    "n": 3,
    "layers": 2,
    "layer": 1,
    "d_head": 2,
    "heads": 3,
    "kv_heads": 3,
    "vocab": 7,
}
LEAD = {Level.CONST: (), Level.EXAMPLE: (ROWS,), Level.TOKEN: (ROWS, TOKENS)}

HEAD = """method m(r: int = 2, n: int = 3, s: float = 0.5, act: fn = gelu) {
    input task : index(n)
    input tone[r] : float
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ normal
    param C[n, d_h, r] ~ normal
    param v[d_h] ~ ones
    param S[d_h, d_h] ~ zeros
    buffer E[n, 2] ~ random_entries(d_h, d_x)
    param c[n] ~ normal
    position attn.q
"""
NAMES = [
    "x",
    "h",
    "W",
    "b",
    "A",
    "B",
    "C",
    "v",
    "S",
    "E",
    "c",
    "task",
    "tone",
    "r",
    "n",
    "s",
    "layer",
    "d_h",
    "u",
]
FUNCTIONS = [name for name in BUILTINS if name.isidentifier()]
leaves = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(["2", "0.5", "1", "0", "1e-3", "2.0"]),
    st.sampled_from(["B @ (A @ x)", "W @ x", "A @ x", "C @ (A @ x)", "B @ A", "C[task]"]),
)


OPERATORS = st.sampled_from(["+", "-", "*", "/", "@", "**"])


def _larger(below: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    over = st.sampled_from(["", "", ", over r", ", over d_h", ", over n", ", over d_x"])
    return st.one_of(
        st.builds("({} {} {})".format, below, OPERATORS, below),
        st.builds("-{}".format, below),
        st.builds("({})[{}]".format, below, st.sampled_from(["task", "layer", "0", "x"])),
        st.builds("{}({}{})".format, st.sampled_from([*FUNCTIONS, "act"]), below, over),
        st.builds("{}({}, {})".format, st.sampled_from(FUNCTIONS), below, below),
        st.builds("reshape({}, {}, {})".format, below, below, below),
    )


EXPRESSIONS = st.recursive(leaves, _larger, max_leaves=6)


def spec(let: str, value: str, target: str) -> str:
    return f"{HEAD}    let u = {let}\n    function delta = {value}\n    composition {target}\n}}\n"


TARGETS = ["h = h + delta", "W = W + delta", "x = delta", "b = b + delta", "h = h + 0 * sum(delta)"]


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS, st.sampled_from(TARGETS))
def test_refused_with_codes_or_right(let: str, value: str, target: str) -> None:
    text = spec(let, value, target)
    found = check([Source("s", text)])
    assert {diagnostic.code for diagnostic in found} <= set(CODES)
    assert render(found) if found else True
    if any(diagnostic.severity == "error" for diagnostic in found):
        return
    adapter = build(load(text))
    assert dumps.adapter(build(load(adapter.source))) == dumps.adapter(adapter)
    (use,) = adapter.uses
    values = tensors(use.method)
    interpret = Interpreter(torch, SIZES, values.__getitem__, training=True, site=Site())
    for composition in use.method.compositions:
        type_ = composition.value.type
        shape = tuple(getattr(interpret(composition.value), "shape", ()))
        dims = tuple(dim.evaluate(SIZES) for dim in type_.dims)
        assert shape == LEAD[type_.level] + dims


class Site:
    def token_mask(self, keywords: Any) -> torch.Tensor:
        return torch.ones(ROWS, TOKENS)

    @property
    def sequence(self) -> Tokens:
        return Tokens(torch.zeros(ROWS, TOKENS), causal=False)

    def average(self, value: Any, have: Type) -> Any:
        return value.mean(list(range(have.level)))


def tensors(method: Any) -> dict[str, torch.Tensor]:
    found = {
        "x": torch.randn(ROWS, TOKENS, 4),
        "h": torch.randn(ROWS, TOKENS, 6),
        "W": torch.randn(6, 4),
        "b": torch.randn(6),
        "task": torch.zeros(ROWS, dtype=torch.long),
        "tone": torch.randn(ROWS, 2),
    }
    for tensor in method.tensors:
        shape = [dim.evaluate(SIZES) for dim in tensor.dims]
        kind = torch.long if tensor.kind == "int" else torch.float
        found[tensor.name] = torch.zeros(shape, dtype=kind)
    return found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "method m {",
                "method m(r: int = 2) {",
                "}",
                "adapter a {",
                "adapter a(r: int = 2) {",
                "m()",
                "m(r = r)",
                "a()",
                "at attn.q",
                "at ffn, norm in layers[0..r]",
                "with insertion parallel",
                "with composition h = h * r",
                "train bias",
                "train attn.core",
                "from lora import lora",
                "from lora import rola as m",
                "lora(r = 0)",
                "lora(p = 2)",
                "param p[d_h] ~ zeros",
                "param p[r, d_x] ~ normal(std = r)",
                "buffer p[n] ~ W",
                "let h = p",
                "let p = q",
                "let q = p",
                "function delta = p * h",
                "function delta = x",
                "composition W = W + p",
                "insertion sequential",
                "position attn.core, ffn",
                'position "*"',
                "position prompt",
                "sharing p across model",
                "sharing none",
                "penalty sum(p)",
                "rate p = 2.0 * r",
                "ensure mergeable",
                "ensure rank(W) <= r",
                "ensure equivalent(m(r = 1))",
                "ensure trainable == d_h",
                "input p : index(r)",
                "input i : int",
            ]
        ),
        max_size=14,
    )
)
def test_random_clauses_never_raise(lines: list[str]) -> None:
    found = check([Source("s", "\n".join(lines))])
    assert {diagnostic.code for diagnostic in found} <= set(CODES)
    render(found)
