"""`peftlang fmt`."""

import io
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command

UGLY = "method   m ( r:int=8 ){ # kept\nparam A[r,d_x]~zeros\nposition attn.q\nfunction y=A@x }\n"


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    path = tmp_path / "ugly.peft"
    path.write_text(UGLY)
    return path


def test_a_file_is_rewritten_once(peftlang: Command, ugly: Path) -> None:
    first = peftlang("fmt", ugly)
    assert (first.code, first.out) == (0, "")
    assert f"reformatted {ugly}" in first.err
    text = ugly.read_text()
    assert text != UGLY
    assert "# kept" in text
    assert peftlang("fmt", ugly).err == ""
    assert ugly.read_text() == text


def test_check_changes_nothing(peftlang: Command, ugly: Path) -> None:
    ran = peftlang("fmt", "--check", ugly)
    assert ran.code == 1
    assert ugly.read_text() == UGLY
    peftlang("fmt", ugly)
    assert peftlang("fmt", "--check", ugly).code == 0


def test_diff_shows_the_change(peftlang: Command, ugly: Path) -> None:
    ran = peftlang("fmt", "--diff", ugly)
    assert ran.code == 1
    assert ugly.read_text() == UGLY
    assert "-param A[r,d_x]~zeros" in ran.out.splitlines()


def test_a_broken_file_is_left_and_the_others_are_not(peftlang: Command, ugly: Path) -> None:
    broken = ugly.parent / "broken.peft"
    broken.write_text("method {")
    ran = peftlang("fmt", ugly.parent)
    assert ran.code == 1
    assert "error[P" in ran.err
    assert broken.read_text() == "method {"
    assert ugly.read_text() != UGLY


def test_stdin_goes_to_stdout(peftlang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(UGLY.encode())))
    ran = peftlang("fmt", "-")
    assert ran.code == 0
    assert "# kept" in ran.out


def test_a_file_that_cannot_be_replaced_stays(
    peftlang: Command, ugly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    ran = peftlang("fmt", ugly)
    assert ran.code == 1
    assert "error[D604]" in ran.err
    assert "No space left" in ran.err
    assert ugly.read_text() == UGLY
    assert [path.name for path in ugly.parent.iterdir()] == ["ugly.peft"]


def test_a_folder_without_specs_is_usage(peftlang: Command, tmp_path: Path) -> None:
    assert peftlang("fmt", tmp_path).code == 2
