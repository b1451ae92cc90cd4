"""What names stand for: before the model runs, and in clauses that a use gives."""

import pytest

from peftlang.diagnostics import Source
from peftlang.lower import build, check, load
from tests.lower import dumps


def errors(text: str) -> list[tuple[str, str]]:
    found = check([Source("s", text)])
    return [(d.code, d.message) for d in found if d.severity == "error"]


@pytest.mark.parametrize(
    ("declared", "what"),
    [
        ("input t[d_h] : float", "is an input of the method"),
        ("tap t[d_h] = block.h", "is a tap of the method"),
        ("carry t[d_h] ~ zeros\ncomposition t = t + h", "is a carried state of the method"),
        ("let t = norm(W, over d_x)", "is a `let` of the method"),
        ("function t = h", "is the function's value of the method"),
    ],
)
def test_a_start_reads_only_what_is_there_before_the_model_runs(declared: str, what: str) -> None:
    text = f"""method m {{
        {declared}
        param s[d_h] ~ t
        position attn.q
        composition h = h + s * t
    }}"""
    assert errors(text) == [("M315", f"an initial value cannot read `t`, which {what}")]


def test_a_start_reads_tensors_before_it_and_not_itself_or_later_ones() -> None:
    for order, code in (("ab", []), ("ba", ["M315"]), ("b", ["M315"])):
        starts = {
            "a": "param a[d_h] ~ ones",
            "b": f"param b_1[d_h] ~ {'b_1' if order == 'b' else 'a'}",
        }
        tensors = "\n".join(starts[name] for name in order)
        read = "b_1" if order == "b" else "a + b_1"
        text = f"method m {{ {tensors}\nposition attn.q\ncomposition h = h + {read} }}"
        assert [found for found, _ in errors(text)] == code


@pytest.mark.parametrize(
    "declared",
    [
        "tap y[d_h] = block.h",
        "carry y[d_h] ~ zeros\ncomposition y = y + h",
        "let y = h",
        "param y[d_h] ~ ones",
        "input y[d_h] : float",
    ],
)
def test_a_clause_of_a_use_reads_the_methods_names_before_the_adapters(declared: str) -> None:
    """A name of the method is not the adapter's hyper-parameter, in the text that is kept too."""
    text = f"""method m {{
        param s[d_h] ~ ones
        {declared}
        position attn.o
        composition h = h + s * y
    }}
    adapter a(y: float = 3.0, z: float = 2.0) {{
        m() with function delta = z * y * s
    }}"""
    adapter = build(load(text))
    (use,) = adapter.uses
    assert use.method.function is not None
    assert dumps.expression(use.method.function[1]) == "((2.0 * y) * s)".replace(
        "y", "h" if declared.startswith("let") else "y"
    )
    assert "z" not in adapter.source.split("{")[-1]
    assert dumps.adapter(build(load(adapter.source))) == dumps.adapter(adapter)


@pytest.mark.parametrize(
    ("declared", "insertion", "clause", "read"),
    [
        ("", "parallel", "q = q + s * h", "h"),
        ("let z = s * h", "parallel", "q = q + z", "h"),
        ("", "parallel", "v = v * sum(s * sum(h, over d_head), over heads)", "h"),
        ("", "sequential", "q = q * sum(s * x, over d_x)", "x"),
    ],
)
def test_a_change_of_an_operand_reads_nothing_of_what_comes_out(
    declared: str, insertion: str, clause: str, read: str
) -> None:
    text = f"""method m {{
        param s ~ ones
        {declared}
        position    attn.core
        insertion   {insertion}
        composition {clause}
        composition h = s * h
    }}"""
    ((code, message),) = errors(text)
    assert code == "M322"
    assert message.startswith(f"`{read}` comes out of what goes in by `{clause[0]}`")


def test_a_change_of_an_operand_reads_what_goes_in_and_carried_states() -> None:
    for clause, insertion in (
        ("q = q * (1 + s * sum(x, over d_x))", "parallel"),
        ("q = q + s * k_before", "sequential"),
    ):
        text = f"""method m {{
            param s ~ ones
            carry k_before[heads, d_head] ~ zeros
            position    attn.core
            insertion   {insertion}
            composition {clause}
            composition h = h + s * k_before
            composition k_before = h
        }}"""
        assert errors(text) == []
