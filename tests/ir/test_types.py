"""Alignment by name: what has one meaning is accepted, and computes it; what has two is refused."""

import pytest
import torch

from peftlang.diagnostics import Source
from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Ref
from peftlang.ir.interpret import Interpreter
from peftlang.ir.types import Level, Type, TypeFact
from peftlang.lower import build, check, load

SIZES = {"u": 2, "r": 3, "s": 4}


def product(left: str, right: str, level: Level = Level.CONST) -> Apply:
    args = (
        Ref("a", Type(tuple(map(Dim.of, left)), level)),
        Ref("b", Type(tuple(map(Dim.of, right)))),
    )
    return Apply("*", args, BUILTINS["*"].rule(Signature(args)))


@pytest.mark.parametrize(
    ("left", "right", "einsum"),
    [
        ("u", "urr", "u,uij->uij"),
        ("urr", "u", "uij,u->uij"),
        ("rur", "u", "iuj,u->iuj"),
        ("u", "rru", "u,iju->iju"),
        ("us", "surr", "us,suij->suij"),
        ("rr", "rr", "ij,ij->ij"),
        ("urr", "urr", "uij,uij->uij"),
    ],
)
@pytest.mark.parametrize("level", [Level.CONST, Level.EXAMPLE])
def test_a_name_without_a_partner_may_occur_twice(
    left: str, right: str, einsum: str, level: Level
) -> None:
    call = product(left, right, level)
    rows = [5] if level is Level.EXAMPLE else []
    a = torch.randn([*rows, *(SIZES[name] for name in left)])
    b = torch.randn([SIZES[name] for name in right])
    found = Interpreter(torch, SIZES, {"a": a, "b": b}.__getitem__)(call)
    first, _, rest = einsum.partition(",")
    second, _, made = rest.partition("->")
    dots = "..." if rows else ""
    wanted = torch.einsum(f"{dots}{first},{second}->{dots}{made}", a, b)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("left", "right", "argument"),
    [("r", "urr", 1), ("urr", "r", 0), ("urr", "ru", 0), ("rr", "rrs", 0), ("ur", "rru", 1)],
)
def test_a_name_with_two_partners_is_ambiguous(left: str, right: str, argument: int) -> None:
    with pytest.raises(TypeFact, match="`r` occurs twice") as fact:
        product(left, right)
    assert (fact.value.code, fact.value.argument) == ("T202", argument)


@pytest.mark.parametrize(("left", "right"), [("s", "urr"), ("rr", "u"), ("su", "urr")])
def test_nothing_grows_unseen(left: str, right: str) -> None:
    with pytest.raises(TypeFact, match="line up") as fact:
        product(left, right)
    assert fact.value.code == "T201"


SPEC = """method m(r: int = 2, u: int = 4) {
    buffer P[u, r, r] ~ normal
    param  v[%s]      ~ zeros
    param  A[r, d_x]  ~ normal
    buffer B[d_h, r]  ~ normal
    position attn.q
    function delta = B @ (sum(v * P, over u) @ (A @ x))
}
"""


def test_a_vector_of_numbers_weighs_square_matrices() -> None:
    adapter = build(load(SPEC % "u"))
    assert adapter.uses[0].method.compositions[0].target == "h"
    (found,) = [d for d in check([Source("s", SPEC % "r")]) if d.severity == "error"]
    assert found.code == "T202"
