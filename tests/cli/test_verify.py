"""`peftlang verify`: what it prints, what it leaves out, and what it need not try again."""

import json
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from peftlang import keeping
from peftlang.cli import kept, verify
from tests.cli.conftest import Command

SHARED = """
method half(r: int = 2) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position    attn.q
    composition h = h + 0.5 * (B @ (A @ x))
    ensure      identity_at_init
}
"""
OWN = 'from "shared.peft" import half\nadapter own {\n    half()\n}\n'
QUICK = ("--examples", 2, "--no-model")


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec that imports another, and no result yet."""
    monkeypatch.setenv("PEFTLANG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "shared.peft").write_text(SHARED)
    path = tmp_path / "own.peft"
    path.write_text(OWN)
    return path


def facts(peftlang: Command, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(peftlang("verify", *arguments, "--json").out)
    return found


def test_what_held_is_not_tried_again(peftlang: Command, spec: Path) -> None:
    first, again = (facts(peftlang, spec, *QUICK) for _ in range(2))
    assert (first["holds"], first["kept"], again["kept"]) == (True, False, True)
    assert {**first, "kept": True} == again
    assert not facts(peftlang, spec, *QUICK, "--fresh")["kept"]
    assert "as before (`--fresh` tries again)" in peftlang("verify", spec, *QUICK).out


@pytest.mark.parametrize(
    "more",
    [
        ("--seed", 1),
        ("--examples", 3),
        ("--set", "r=3"),
        ("--at", "attn.k"),
        ("--against", "lora"),
        ("--model", "tiny-llama"),
    ],
)
def test_another_question_is_another_result(
    peftlang: Command, spec: Path, more: tuple[object, ...]
) -> None:
    spec.write_text(SHARED.replace("method half", "method own"))
    assert not facts(peftlang, spec, *QUICK)["kept"]
    assert not facts(peftlang, spec, *QUICK, *more)["kept"]
    assert facts(peftlang, spec, *QUICK)["kept"]


def test_what_the_spec_imports_is_part_of_it(peftlang: Command, spec: Path) -> None:
    assert facts(peftlang, spec, *QUICK)["holds"]
    (spec.parent / "shared.peft").write_text(SHARED.replace("~ zeros", "~ ones"))
    found = facts(peftlang, spec, *QUICK)
    assert (found["holds"], found["kept"]) == (False, False)
    assert not facts(peftlang, spec, *QUICK)["kept"], "what fails is tried again"


def test_no_result_is_kept_of_what_may_read_anything(peftlang: Command, spec: Path) -> None:
    reference = spec.parent / "ref.py"
    reference.write_text(
        "def reference(params, x, h):\n    return h + x @ params.A.T @ params.B.T / 2"
    )
    for _ in range(2):
        assert not facts(peftlang, spec, *QUICK, "--against", reference)["kept"]


@pytest.mark.parametrize("what", ["own_code", "version_of"])
def test_other_code_is_another_result(
    what: str, peftlang: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts(peftlang, spec, *QUICK)
    monkeypatch.setattr(keeping, what, lambda *_: "another")
    assert not facts(peftlang, spec, *QUICK)["kept"]


def test_nothing_is_kept_beside_a_package_that_is_a_checkout(
    peftlang: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "is_editable", lambda package: package == "transformers")
    for _ in range(2):
        assert not facts(peftlang, spec, *QUICK)["kept"]


def test_the_oldest_results_go_first(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keeping.KINDS, "verify", 2)
    for number in range(4):
        kept.keep(f"k{number}", {"number": number})
        time.sleep(0.01)
    assert [kept.find(f"k{number}") for number in range(4)] == [
        None,
        None,
        {"number": 2},
        {"number": 3},
    ]
    (keeping.folder() / "verify" / "k3.json").write_text("{")
    assert kept.find("k3") is None


def test_the_whole_model_is_left_out_when_asked(peftlang: Command, spec: Path) -> None:
    found = facts(peftlang, spec, *QUICK)
    assert found["models"] == []
    assert not any("tiny-" in row["property"] for row in found["properties"])


REFUTED = """
method m(r: int = 2, alpha: float = 8.0) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position    attn.q
    function    delta = alpha * (B @ relu(A @ x))
    composition h = h + delta
    ensure      mergeable
}
"""


def test_a_refuted_contract_teaches(peftlang: Command, spec: Path) -> None:
    """The reason, its place in the spec, and the counter-example in the sizes that matter."""
    spec.write_text(REFUTED.lstrip())
    ran = peftlang("verify", spec, "--examples", 5, "--no-model")
    assert ran.code == 1
    assert "error[V813]: `mergeable` is refuted, because `relu` is not linear\n" in ran.out
    assert "own.peft:5:38\n" in ran.out
    assert "5 |     function    delta = alpha * (B @ relu(A @ x))\n" in ran.out
    assert f"  |{' ' * 38}^^^^^^^^^^^\n" in ran.out
    assert "  at attn.q of m with d_x = 1, d_h = 1, r = 1, alpha = 8.0\n" in ran.out
    assert "    h[0, 0, 0]: got " in ran.out


@pytest.mark.parametrize(
    ("how", "holds", "decided"),
    [
        ("both", True, "proved, run"),
        ("both", False, "refuted, run"),
        ("run", False, "run"),
        ("refuted", False, "refuted"),
    ],
)
def test_what_fails_is_never_said_to_be_proved(how: str, *, holds: bool, decided: str) -> None:
    row = {"property": "p", "use": "", "how": how, "holds": holds, "examples": 1, "worst_error": 0}
    cells = verify._cells(row, several=False)
    assert (cells[1], cells[4]) == (decided, "holds" if holds else "FAILS")


@pytest.mark.parametrize(
    ("patience", "terminal", "shown"), [(0.0, True, True), (60.0, True, False), (0.0, False, False)]
)
def test_what_takes_long_shows_what_it_does(
    patience: float, *, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = StringIO()
    monkeypatch.setattr(verify, "PATIENCE", patience)
    monkeypatch.setattr(
        verify, "error_console", lambda: Console(file=seen, force_terminal=terminal, width=80)
    )
    with verify._progress(40) as observe:
        observe("mergeable", 7)
        time.sleep(0.3)
    assert ("mergeable" in seen.getvalue() and "7/40" in seen.getvalue()) is shown
    assert shown or not seen.getvalue()
