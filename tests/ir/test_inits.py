"""What initialisers may be given: the ranges in their table are those that torch computes with."""

import math
from itertools import product
from typing import Any

import pytest
import torch

from peftlang.diagnostics import Diagnostic, PeftError, Source
from peftlang.ir.inits import INITIALISERS, InitCall, Range
from peftlang.ir.plan import Site
from peftlang.lower import SpecError, build, check, load
from peftlang.passes.resolve import resolved

SHAPES = {"random_entries": (3, 2)}
PLAIN = {"v": 0.5, "p": 0.5, "rows": 4.0, "columns": 5.0}
ARGUMENTS = [
    (name, argument, allowed)
    for name, entry in INITIALISERS.items()
    for argument, allowed in {**entry.operands, **entry.keywords}.items()
]


def made(name: str, **values: float) -> torch.Tensor:
    entry = INITIALISERS[name]
    found = entry.make(
        InitCall(
            t=torch,
            shape=SHAPES.get(name, (4, 5)),
            generator=torch.Generator().manual_seed(0),
            args=tuple(values.get(operand, PLAIN[operand]) for operand in entry.operands),
            keywords={key: value for key, value in values.items() if key in entry.keywords},
        )
    )
    assert isinstance(found, torch.Tensor)
    return found


def refused(name: str, **values: float) -> str:
    with pytest.raises(PeftError) as error:
        made(name, **values)
    assert error.value.code == "S408"
    return error.value.message


def test_every_argument_has_a_range() -> None:
    assert {argument for _, argument, _ in ARGUMENTS} == {
        "v", "mean", "std", "copies", "low", "high", "p", "a", "gain", "rows", "columns", "seed"
    }  # fmt: skip
    for entry in INITIALISERS.values():
        assert set(entry.defaults) <= set(entry.keywords)
        unknown = dict.fromkeys(entry.operands)
        assert entry.wrong({**unknown, **entry.defaults}, SHAPES.get(entry.name, (4, 5))) is None


@pytest.mark.parametrize(("name", "argument", "allowed"), ARGUMENTS)
def test_torch_takes_what_is_in_range(name: str, argument: str, allowed: Range) -> None:
    # A matrix of 2**53 rows is in range, and in no memory.
    most = 1000 if argument in ("rows", "columns") else allowed.most
    some = [allowed.least, most, 0, 1, 2, 0.5]
    values = [value for value in some if allowed.holds(value)]
    for value in values:
        given, shape = {argument: float(value)}, SHAPES.get(name, (4, 5))
        entry = INITIALISERS[name]
        if entry.together({**PLAIN, **entry.defaults, **given}, shape) is not None:
            continue  # Alone it is in range, with the other arguments or the shape it is not.
        if argument == "copies" and shape[0] % value:
            continue
        found = made(name, **given)
        assert tuple(found.shape) == shape
        assert not found.isnan().any()


@pytest.mark.parametrize(("name", "argument", "allowed"), ARGUMENTS)
def test_what_is_out_of_range_is_said(name: str, argument: str, allowed: Range) -> None:
    outside = [math.nan, math.inf, -math.inf, 2 * allowed.most, 2 * allowed.least - 1]
    outside += [1.5] if allowed.whole else []
    for value in outside:
        if not allowed.holds(value):
            assert f"`{argument}` of `{name}` is {allowed.words}" in refused(
                name, **{argument: value}
            )
    assert not allowed.holds(2 * allowed.most)


def test_arguments_that_do_not_go_together() -> None:
    assert "from `low` to `high`, and these are 1 and 0" in refused("uniform", low=1.0, high=0.0)
    assert "these are -3e+38 and 3e+38" in refused("uniform", low=-3e38, high=3e38)
    assert "takes 3 of the 2 places" in refused("random_entries", rows=1, columns=2)


@pytest.mark.parametrize("copies", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", ["normal", "kaiming_uniform"])
def test_rows_stand_in_copies_where_they_divide(name: str, copies: int) -> None:
    if 4 % copies:
        assert refused(name, copies=copies) == f"`copies = {copies}` does not divide 4 rows"
        return
    drawn = made(name, copies=copies)
    assert drawn.shape == (4, 5)
    for row, other in product(range(4), range(4)):
        assert torch.equal(drawn[row], drawn[other]) == (row // copies == other // copies)


SPEC = "method m(v: float = 1.0, k: int = 1) {\n%s\nposition attn.q\ncomposition h = h + %s\n}"


def spec(start: str) -> str:
    return SPEC % (f"param P[d_h] ~ {start}", "P")


def errors(text: str) -> list[Diagnostic]:
    return [d for d in check([Source("s", text)]) if d.severity == "error"]


@pytest.mark.parametrize(
    ("start", "at"),
    [
        ("normal(std = -1)", "-1"),
        ("normal(mean = 1e39)", "1e39"),
        ("normal(std = 2 - sqrt(9))", "2 - sqrt(9)"),
        ("normal(copies = 2.5)", "2.5"),
        ("normal(copies = 0)", "0"),
        ("uniform(low = -4e38)", "-4e38"),
        ("bernoulli(2)", "2"),
        ("constant(1e39)", "1e39"),
        ("xavier_normal(gain = -1e-3)", "-1e-3"),
        ("kaiming_uniform(a = 1e300)", "1e300"),
    ],
)
def test_a_constant_out_of_range_is_said_where_it_stands(start: str, at: str) -> None:
    text = spec(start)
    (found,) = errors(text)
    assert found.code == "T212"
    assert found.span is not None
    assert text[found.span.start : found.span.end] == at


@pytest.mark.parametrize(
    ("start", "args"),
    [
        ("normal(std = v)", {"v": -1.0}),
        ("normal(std = 1 / (3 - v))", {"v": 4.0}),
        ("normal(std = v / k)", {"k": 0}),
        ("normal(copies = v)", {"v": 2.5}),
        ("normal(copies = k)", {"k": 0}),
        ("uniform(low = v, high = 1.5)", {"v": 2.0}),
        ("uniform(high = v)", {"v": -1.0}),
        ("constant(v)", {"v": 1e39}),
        ("bernoulli(v)", {"v": 1.25}),
        ("xavier_uniform(gain = v - 1)", {"v": 0.5}),
        ("kaiming_normal(a = v)", {"v": 1e200}),
    ],
)
def test_an_argument_out_of_range_is_said_when_it_is_given(
    start: str, args: dict[str, Any]
) -> None:
    loaded = load(spec(start))
    assert build(loaded).uses
    with pytest.raises(SpecError) as error:
        build(loaded, args=args)
    assert error.value.code == "T212"
    ((key, value),) = args.items()
    with pytest.raises(SpecError):
        load(f"{loaded.source.text}\nadapter a {{ m({key} = {value}) }}")


def test_what_only_a_shape_makes_wrong() -> None:
    places = "buffer E[k, 2] ~ random_entries(1, 2)\nparam P[k] ~ ones"
    loaded = load(SPEC % (places, "sum(scatter(P, E, 1, 2)) * h"))
    assert build(loaded, args={"k": 2}).uses
    with pytest.raises(SpecError, match="takes 3 of the 2 places of a matrix"):
        build(loaded, args={"k": 3})
    (found,) = errors(spec("kaiming_uniform").replace("[d_h]", ""))
    assert (found.code, "depends on how many numbers go in" in found.message) == ("T208", True)


SITE = Site(id="q#attn.q", role="attn.q", path="q", weight="q.weight", dims={"d_h": 6, "d_x": 8})


@pytest.mark.parametrize(
    ("start", "fact"),
    [
        ("normal(std = 5 - d_h)", "`std` of `normal` is from 0 to 1e30, and this is -1"),
        ("normal(copies = 7 - d_h - 1)", "`copies` of `normal` is a whole number, at least 1"),
        ("uniform(low = d_h, high = 5)", "`uniform` draws from `low` to `high`, and these are 6"),
        ("constant(1 / (d_h - 6))", "an expression divides by zero"),
    ],
)
def test_what_a_site_makes_wrong_is_said_before_anything_is_made(start: str, fact: str) -> None:
    adapter = build(load(spec(start)))
    with pytest.raises(PeftError) as error:
        resolved(adapter, [SITE])
    assert error.value.code == "S408"
    assert f"`m` does not fit q#attn.q: {fact}" in error.value.message
    wider = {"d_h": 4, "d_x": 8}
    assert resolved(adapter, [SITE.model_copy(update={"dims": wider})]).placements


@pytest.mark.parametrize("what", ['"x"', "true"])
@pytest.mark.parametrize(
    "clauses",
    [
        "param P[d_h] ~ normal(std = {})",
        "param P[d_h] ~ ones\nparam s ~ {}",
        "param P[d_h] ~ ones\npenalty {}",
        "param P[d_h] ~ ones\nrate P = {}",
        "param P[d_h] ~ ones\ncarry c ~ {}\ncomposition c = c + 1",
        "param P[d_h] ~ ones\nfunction delta = {}",
    ],
)
def test_texts_and_truths_are_no_numbers(clauses: str, what: str) -> None:
    found = errors(SPEC % (clauses.format(what), "P"))
    assert [d.code for d in found] == ["T211"]
