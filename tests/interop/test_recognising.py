"""What an adapter is, is found from its mathematics, at the level of one site."""

import pytest

from peftlang.interop.forms import method_of
from peftlang.interop.matching import Mismatch, match
from peftlang.ir.plan import Site
from peftlang.lower import build, load

SITE = Site(id="m#linear", role="linear", path="m", weight="m.weight", dims={"d_x": 8, "d_h": 6})

LORA = """method {name}(k: int = 2) {{
    param U[k, d_x] ~ zeros
    param V[d_h, k] ~ zeros
    position linear
    composition {composition}
}}"""


def found(pattern: str, text: str, **args: float) -> tuple[dict[str, object], dict[str, str]]:
    (use,) = build(load(text), args=args).uses
    result = match(method_of(pattern), use, SITE)
    return dict(result.hypers), result.tensors


@pytest.mark.parametrize(
    ("composition", "alpha"),
    [
        ("h = h + 3 * (V @ (U @ x))", 6.0),
        ("h = (V @ (U @ x)) * 1.5 / 3 + h", 1.0),
        ("h = h - V @ (-0.25 * (U @ x))", 0.5),
        ("h = h + (k * V) @ (U @ x)", 4.0),
        ("h = identity(h) + V @ (U @ dropout(x, 0))", 2.0),
    ],
)
def test_lora_by_any_name_in_any_order(composition: str, alpha: float) -> None:
    hypers, tensors = found("lora", LORA.format(name="mine", composition=composition))
    assert hypers == {"r": 2, "alpha": alpha, "p": 0.0}
    assert tensors == {"A": "U", "B": "V"}


@pytest.mark.parametrize(
    "composition",
    [
        "h = h + V @ tanh(U @ x)",
        "h = h + V @ (U @ x) + V @ (U @ x)",
        "h = h * (V @ (U @ x))",
        "h = V @ (U @ x)",
        "h = h + V @ (U @ stop_gradient(x))",
        "h = h + norm(V) * (V @ (U @ x))",
    ],
)
def test_an_edited_lora_is_no_lora(composition: str) -> None:
    with pytest.raises(Mismatch):
        found("lora", LORA.format(name="lora", composition=composition))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("param U", "buffer U"), "does not train `U`"),
        (("~ zeros\n    param V", "~ zeros shared across layers\n    param V"), "shares `U`"),
        (("position linear", "position linear\n    insertion sequential"), "sequential"),
        (("position linear", "position linear\n    penalty sum(U * U)"), "penalty"),
        (
            ("position linear", "position linear\n    let g = 1\n    param g_[d_h] ~ zeros"),
            "tensors",
        ),
    ],
)
def test_what_stands_beside_the_expression_counts(change: tuple[str, str], reason: str) -> None:
    text = LORA.format(name="lora", composition="h = h + V @ (U @ x)").replace(*change)
    text = text.replace("position", "param g[d_h] ~ zeros\n    position", "+ g" in text)
    with pytest.raises(Mismatch, match=reason):
        found("lora", text)


def test_the_scale_says_which_of_two_it_is() -> None:
    (use,) = build(load("rslora"), args={"r": 4, "alpha": 8.0}, at="linear").uses
    assert match(method_of("rslora"), use, SITE).hypers["alpha"] == 8.0
    assert match(method_of("lora"), use, SITE).hypers["alpha"] == 16.0, "the same at each rank"


@pytest.mark.parametrize("axis", ["d_x", "d_h"])
def test_the_axis_of_a_norm_is_part_of_dora(axis: str) -> None:
    text = f"""method dora(r: int = 2) {{
        param A[r, d_x] ~ zeros
        param B[d_h, r] ~ zeros
        param m[{"d_h" if axis == "d_x" else "d_x"}] ~ ones
        position linear
        let V = W + B @ A
        composition W = V * m / stop_gradient(norm(V, over {axis}))
    }}"""
    if axis == "d_x":
        assert found("dora", text)[0] == {"r": 2, "alpha": 2.0}
    else:
        with pytest.raises(Mismatch):
            found("dora", text)
