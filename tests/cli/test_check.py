"""`peftlang check`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command

RIGHT = """method right(r: int = 4) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
"""
WRONG = RIGHT.replace("B @ (A @ x)", "B @ (A @ y) + C")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "right.peft").write_text(RIGHT)
    (tmp_path / "deep" / "wrong.peft").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_right_spec(peftlang: Command, folder: Path) -> None:
    ran = peftlang("check", "right.peft")
    assert (ran.code, ran.out, ran.err) == (0, "1 spec is right\n", "")


def test_every_error_of_every_file_is_reported(peftlang: Command, folder: Path) -> None:
    ran = peftlang("check", ".")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("error[") == 2
    assert "`y`" in ran.err
    assert "`C`" in ran.err
    assert "deep/wrong.peft:5:" in ran.err


def test_json_is_for_programs(peftlang: Command, folder: Path) -> None:
    ran = peftlang("check", "--json", "right.peft", "deep/wrong.peft")
    assert (ran.code, ran.err) == (1, "")
    found = json.loads(ran.out)
    assert (found["specs"], found["errors"]) == (2, 2)
    first = found["diagnostics"][0]
    assert first["file"] == "deep/wrong.peft"
    assert first["severity"] == "error"
    place = first["start"]
    line = WRONG.splitlines()[place["line"] - 1]
    assert line[place["column"] - 1 : first["end"]["column"] - 1] == "y"


def test_binary_garbage_is_a_diagnostic(peftlang: Command, folder: Path) -> None:
    (folder / "noise.peft").write_bytes(bytes(range(256)) * 40)
    ran = peftlang("check", "noise.peft")
    assert ran.code == 1
    assert "error[P" in ran.err
    assert "\x1b" not in ran.err
