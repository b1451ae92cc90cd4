"""Every property, broken once: the counter-example is right, and its script shows it again."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import peftlang
from peftlang.cli import main
from peftlang.diagnostics import PeftError
from peftlang.verifying import Report, Row, verify
from peftlang.verifying.writing import written


def method(ensure: str, body: str, composition: str, position: str = "attn.q") -> str:
    return f"""method m(r: int = 2) {{
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    {body}
    position    {position}
    composition {composition}
    ensure      {ensure}
}}
"""


LOW_RANK = "h = h + B @ (A @ x)"
WRONG = {
    "identity": ("identity_at_init", "param g[d_h] ~ normal", f"{LOW_RANK} + g", "attn.q"),
    "zero": ("identity_at_init", "param g[d_h] ~ zeros", "h = g * h", "attn.q"),
    "merge": ("mergeable", "", "h = h + B @ relu(A @ x)", "attn.q"),
    "core": ("mergeable", "param g[d_head] ~ ones", "h = g * h", "attn.core"),
    "count": ("trainable == r * d_x", "", LOW_RANK, "attn.q"),
    "local": ("token_local", "param g[d_head] ~ ones", "k = g * k", "attn.core"),
    "causal": ("causal", "", "h = h + pool(h, causal = false)", "attn.q"),
    "rank": ("rank(D) <= 1", "let D = B @ A", LOW_RANK, "attn.q"),
    "orthogonal": ("orthogonal(Q)", "param Q[d_x, d_x] ~ eye", "W = W @ Q", "attn.q"),
    "symmetric": ("symmetric(Q)", "param Q[d_x, d_x] ~ eye", "W = W @ Q", "attn.q"),
    "equivalent": ("equivalent(twice(r = r))", "", LOW_RANK, "attn.q"),
}
HOW = {"zero": "both", "core": "both", "count": "both", "local": "refuted"}
TWICE = """method twice(r: int = 2) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    composition h = h + 2 * (B @ (A @ x))
}
"""


@cache
def broken(name: str) -> tuple[Report, Row]:
    ensure, body, composition, position = WRONG[name]
    text = method(ensure, body, composition, position)
    text = TWICE + text if name == "equivalent" else text
    report = verify(text, examples=12, whole=False, entry="m")
    return report, next(row for row in report.rows if row.property == ensure)


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_promise_is_found(name: str) -> None:
    report, row = broken(name)
    assert not row.holds
    assert not report.holds
    assert row.how == HOW.get(name, "run")
    with pytest.raises(PeftError) as caught:
        report.check()
    assert caught.value.code == "V813"


REASONS = {
    "identity": (
        "`h` is not left as it is by the tensors as they start",
        "composition h = h + B @ (A @ x) + g",
    ),
    "zero": ("`h` starts at 0 everywhere", "composition h = g * h"),
    "merge": ("`relu` is not linear", "relu(A @ x)"),
    "core": ("the attention product has no weights to take the change", "mergeable"),
    "count": ("the shapes sum to d_h * r + d_x * r", "trainable == r * d_x"),
    "local": ("`k` is read by every token", "k"),
    "causal": ("`pool` reads the tokens that come later", "pool(h, causal = false)"),
}
"""Why a promise is broken, where the text says so, and what of the text that is."""


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_promise_has_a_reason_with_a_place(name: str) -> None:
    report, row = broken(name)
    assert row.place is not None
    text = row.place.facts()["text"]
    first = written(row, report).splitlines()[0]
    if name in REASONS:
        assert (row.reason, text) == REASONS[name]
        assert first == f"error[V813]: `{row.property}` is refuted, because {row.reason}"
    else:
        assert (row.reason, text) == ("", row.property)
        assert first == f"error[V813]: `{row.property}` does not hold"


@pytest.mark.parametrize("clause", ["composition h = h + relu(h)", "insertion sequential"])
def test_a_clause_from_elsewhere_has_no_place_in_the_spec(clause: str) -> None:
    text = method("mergeable", "", "h = h + B @ relu(A @ x)")
    row = verify(text, examples=3, whole=False, overrides=(clause,)).rows[0]
    assert (row.reason, row.place) == ("`relu` is not linear", None)


def test_a_counter_example_is_the_smallest_and_its_script_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "wrong.peft"
    path.write_text(method(*WRONG["merge"]))
    report = verify(path, examples=12, whole=False)
    row = next(row for row in report.rows if row.property == "mergeable")
    assert row.failure is not None
    assert row.failure.case is not None
    assert row.failure.case.sizes["d_h"] == 1
    text = report.script(row)
    assert text.count("\n") == 3
    assert "  at attn.q of m with d_x = 1, d_h = 1, r = 1\n" in written(row, report)
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == str(row.failure.difference)


@pytest.mark.parametrize(("factor", "holds"), [("h", True), ("pool(h, causal = false)", False)])
def test_rows_of_an_embedding_take_what_is_alike_for_equal_tokens(
    factor: str, *, holds: bool
) -> None:
    text = (
        "method e { param g[d_h] ~ normal position embed "
        f"composition h = h + g * {factor} ensure mergeable }}"
    )
    row = verify(text, examples=12, whole=False).rows[0]
    assert (row.property, row.holds) == ("mergeable", holds)


def test_tensors_correspond_as_the_contract_says() -> None:
    named = TWICE.replace("twice", "other").replace("2 *", "1 *").replace("A", "D")
    right = method("equivalent(other(r = r), D = A)", "", LOW_RANK)
    assert verify(named + right, examples=5, whole=False, entry="m").holds
    with pytest.raises(PeftError) as caught:
        verify(named + method("equivalent(other(r = r))", "", LOW_RANK), whole=False, entry="m")
    assert caught.value.code == "V811"
    with pytest.raises(PeftError) as caught:
        verify(named + method("equivalent(other(r = r), D = C)", "", LOW_RANK), entry="m")
    assert caught.value.code == "M308"


def test_a_contract_has_the_numbers_of_the_site_that_is_tried() -> None:
    """Not those of the defaults: here equal for each value of `s`, and for no value but 2."""
    text = """method scaled(s: float = 2.0) {
    param g[d_h] ~ zeros
    position attn.q
    composition h = h + s * g
}
method m(s: float = 2.0) {
    param g[d_h] ~ zeros
    position attn.q
    composition h = h + s * g
    ensure equivalent(scaled(s = VALUE))
}
"""
    assert verify(text.replace("VALUE", "s"), whole=False, entry="m", examples=20).holds
    assert not verify(text.replace("VALUE", "2.0"), whole=False, entry="m", examples=20).holds


def test_a_whole_model_confirms() -> None:
    report = peftlang.verify("lora", examples=2, args={"r": 2})
    assert report.holds
    assert report.models == ("tiny-llama",)
    titles = {row.property.partition(" (")[0] for row in report.rows}
    assert {"starts at the base", "saved and loaded alike", "merged equals unmerged"} <= titles


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.peft"
    path.write_text(method(*WRONG["core"]))
    assert main(["verify", str(path), "--examples", "3", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["adapter"], found["holds"]) == ("m", False)
    first = found["properties"][0]
    assert (first["property"], first["how"], first["holds"]) == ("mergeable", "both", False)
    assert first["counter_example"]["note"] == "`attn.core` has no weights to take the change"
    assert main(["verify", "lora", "--against", "missing.py"]) == 2
    assert "V801" in capsys.readouterr().err
