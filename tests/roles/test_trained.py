"""`train` clauses: which of the base's parameters they mean, scopes included."""

import pytest

from peftlang.diagnostics import PeftError
from peftlang.ir.plan import Site
from peftlang.lower import build, load
from peftlang.passes.resolve import resolved

STACKS = ("encoder", "decoder")


def _block(side: str, layer: int) -> Site:
    path = f"{side}.{layer}"
    return Site(
        id=f"{path}#block",
        role="block",
        path=path,
        stack=side,
        side=side,
        layer=layer,
        dims={"layers": 2},
    )


def _linear(side: str, layer: int) -> Site:
    path = f"{side}.{layer}.fc"
    return Site(
        id=f"{path}#linear",
        role="linear",
        path=path,
        stack=side,
        side=side,
        layer=layer,
        weight=f"{path}.weight",
        bias=f"{path}.bias",
        dims={"layers": 2, "d_h": 8 + layer},
    )


def _norm(side: str) -> Site:
    return Site(
        id=f"{side}.norm#norm",
        role="norm",
        path=f"{side}.norm",
        side=side,
        weight=f"{side}.norm.weight",
        bias=f"{side}.norm.bias",
    )


SITES = [
    *(make(side, layer) for side in STACKS for layer in (0, 1) for make in (_block, _linear)),
    *map(_norm, STACKS),
]
SHAPES = {
    f"{owner}.{kind}": (8,)
    for owner in ("head", *(s.path for s in SITES if s.weight), "encoder.1.odd")
    for kind in ("weight", "bias")
}


def trained(selector: str) -> set[str]:
    adapter = build(load(f"adapter a {{\n    train {selector}\n}}"))
    return set(resolved(adapter, SITES, SHAPES).train)


def biases(*owners: str) -> set[str]:
    return {f"{owner}.bias" for owner in owners}


@pytest.mark.parametrize(
    ("selector", "owners"),
    [
        (
            "bias",
            (
                "head",
                "encoder.0.fc",
                "encoder.1.fc",
                "encoder.1.odd",
                "encoder.norm",
                "decoder.0.fc",
                "decoder.1.fc",
                "decoder.norm",
            ),
        ),
        ("bias in decoder", ("decoder.0.fc", "decoder.1.fc", "decoder.norm")),
        ("bias in layers[1..]", ("encoder.1.fc", "encoder.1.odd", "decoder.1.fc")),
        ("(bias in layers[0]) in encoder", ("encoder.0.fc",)),
        ("bias where d_h >= 9", ("encoder.1.fc", "decoder.1.fc")),
        ("bias except (bias in encoder)", ("head", "decoder.0.fc", "decoder.1.fc", "decoder.norm")),
        ("norm.bias in encoder", ("encoder.norm",)),
    ],
)
def test_a_scope_narrows_what_trains(selector: str, owners: tuple[str, ...]) -> None:
    assert trained(selector) == biases(*owners)


def test_a_scope_that_leaves_nothing_is_an_error() -> None:
    with pytest.raises(PeftError) as error:
        trained("bias in layers[7]")
    assert error.value.code == "S402"
