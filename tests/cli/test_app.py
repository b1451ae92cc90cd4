"""What every command shares: help, exit codes, and how failure looks."""

import io
import sys
from pathlib import Path

import pytest

from peftlang.cli import app
from peftlang.diagnostics import PeftError
from tests.cli.conftest import Command


@pytest.mark.parametrize("command", app.COMMANDS)
def test_help_teaches(peftlang: Command, command: str) -> None:
    ran = peftlang(command, "--help")
    assert ran.code == 0
    assert "Usage:" in ran.out
    assert f"peftlang {command} " in ran.out.split("Example", 1)[1]


def test_help_lists_every_command(peftlang: Command) -> None:
    ran = peftlang("--help")
    assert ran.code == 0
    assert all(command in ran.out for command in app.COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["check"], ["check", "--nonsense"], ["compile", "a.peft"], ["sites"]],
)
def test_wrong_usage_is_2(peftlang: Command, arguments: list[str]) -> None:
    ran = peftlang(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", ["check", "fmt", "explain"])
def test_a_missing_file_is_usage(peftlang: Command, command: str, tmp_path: Path) -> None:
    ran = peftlang(command, tmp_path / "missing.peft")
    assert ran.code == 2
    assert "error[D601]" in ran.err
    assert "missing.peft" in ran.err


@pytest.mark.parametrize(("code", "exit_code"), [("C701", 2), ("D602", 1), ("T203", 1)])
def test_errors_of_the_user_are_drawn(
    peftlang: Command, monkeypatch: pytest.MonkeyPatch, code: str, exit_code: int
) -> None:
    def fail(**_: object) -> None:
        raise PeftError("it is wrong", code=code, help="mend it")

    monkeypatch.setattr(app, "application", lambda _first: fail)
    ran = peftlang("check")
    assert (ran.code, ran.out) == (exit_code, "")
    assert ran.err == f"error[{code}]: it is wrong\nhelp: mend it\n"


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_said_to_be_ours(
    peftlang: Command, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(app, "application", lambda _first: fail)
    ran = peftlang("check", *(["--debug"] if debug else []))
    assert ran.code == 70
    assert "internal error: ZeroDivisionError: one\n" in ran.err
    assert "bug in peftlang" in ran.err
    assert ("Traceback" in ran.err) is debug


def test_output_to_a_pipe_is_plain(peftlang: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.peft").write_text("method m {\n")
    ran = peftlang("check", tmp_path / "wrong.peft")
    assert ran.code == 1
    assert "\x1b" not in ran.out + ran.err


def test_specs_are_read_from_stdin(peftlang: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"method m {\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    ran = peftlang("check", "-")
    assert ran.code == 1
    assert "<stdin>:" in ran.err
