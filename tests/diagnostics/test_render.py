"""Diagnostics as a person sees them."""

import pickle
import re
import subprocess
import sys

import pytest

from peftlang.diagnostics import Diagnostic, Label, PeftError, Source, Span, render

TEXT = "method m {\n\tparam A[r] = zeros\n    let x = 1\n}\n"
SOURCE = Source("a.peft", TEXT)


def at(part: str, source: Source = SOURCE) -> Span:
    start = source.text.index(part)
    return Span(start, start + len(part))


def shown(source: Source, span: Span, *labels: Label) -> str:
    return render([Diagnostic("P012", "wrong", source, span, labels)])


def test_a_whole_diagnostic() -> None:
    one = Diagnostic("P012", "expected `~`", SOURCE, at("="), help="write `~`")
    assert render([one]) == (
        "error[P012]: expected `~`\n"
        " --> a.peft:2:13\n"
        "  |\n"
        "2 |     param A[r] = zeros\n"
        "  |                ^\n"
        "  |\n"
        "help: write `~`\n"
    )


def test_labels_on_this_line_on_another_and_in_another_file() -> None:
    other = Source("b.peft", "line\nthere\n")
    text = shown(
        SOURCE,
        at("zeros"),
        Label(at("param"), "of this"),
        Label(at("method"), "in here"),
        Label(at("there", other), "and there", other),
    )
    assert text == (
        "error[P012]: wrong\n"
        " --> a.peft:2:15\n"
        "  |\n"
        "1 | method m {\n"
        "  | ------ in here\n"
        "2 |     param A[r] = zeros\n"
        "  |                  ^^^^^\n"
        "  |     ----- of this\n"
        "  |\n"
        " ::: b.peft:2:1\n"
        "  |\n"
        "2 | there\n"
        "  | ----- and there\n"
        "  |\n"
    )


def test_lines_left_out_are_marked() -> None:
    source = Source("a.peft", "one\ntwo\nthree\nfour\n")
    text = shown(source, at("four", source), Label(at("one", source), "first"))
    assert "\n...\n" in text


def test_several_are_sorted_by_place_and_shown_once() -> None:
    late = Diagnostic("P012", "late", SOURCE, at("let"))
    early = Diagnostic("P011", "early", SOURCE, at("param"))
    text = render([late, early, late])
    assert re.findall(r"^error\[(\w+)\]", text, re.MULTILINE) == ["P011", "P012"]
    assert "\n\nerror[P012]" in text


@pytest.mark.parametrize("severity", ["error", "warning", "note"])
def test_severity_is_named(severity: str) -> None:
    one = Diagnostic("P012", "m", severity=severity)  # type: ignore[arg-type]
    assert render([one]) == f"{severity}[P012]: m\n"


@pytest.mark.parametrize(
    ("line", "part", "left", "width"),
    [
        ("let x", "x", 4, 1),
        ("漢字 x", "x", 5, 1),
        ("漢字 x", "漢字", 0, 4),
        ("e\u0301e\u0301 x", "x", 3, 1),
        ("\tx", "x", 4, 1),
        ("ab\tx", "x", 4, 1),
        ("a\x07x", "x", 2, 1),
    ],
)
def test_the_carets_stand_under_their_text(line: str, part: str, left: int, width: int) -> None:
    source = Source("a.peft", line)
    carets = shown(source, at(part, source)).split("\n")[4]
    assert carets == "  | " + " " * left + "^" * width


def test_a_long_line_is_cut_to_a_window() -> None:
    source = Source("a.peft", "a" * 5000 + "XYZ" + "b" * 5000)
    lines = shown(source, at("XYZ", source)).split("\n")
    assert lines[1] == " --> a.peft:1:5001"
    assert len(lines[3]) < 120
    assert lines[3].startswith("1 | …a")
    assert lines[3].endswith("b…")
    assert lines[4].index("^") == lines[3].index("XYZ")
    assert lines[4].count("^") == 3


def test_a_span_over_lines_is_marked_on_its_first() -> None:
    lines = shown(SOURCE, Span(at("zeros").start, at("let").end)).split("\n")
    assert lines[4].strip(" |") == "^" * 5


def test_an_empty_span_and_the_end_of_the_text_have_a_caret() -> None:
    assert shown(SOURCE, Span(len(TEXT), len(TEXT))).count("^") == 1
    assert shown(Source("e.peft", ""), Span(0, 0)).count("^") == 1


def test_windows_line_endings_are_not_shown() -> None:
    source = Source("a.peft", "one\r\ntwo\r\n")
    assert "\r" not in shown(source, at("one", source))


def test_nothing_that_a_terminal_would_obey_is_shown() -> None:
    source = Source("a\x1b[31m.peft", "a \x1b[2J \u202e b\x00 \udc80\n")
    text = render(
        [Diagnostic("P005", "m\x1b[0m", source, Span(0, 1), (Label(Span(2, 3), "\x9b"),), "h\x07")]
    )
    assert all(character.isprintable() or character == "\n" for character in text)
    text.encode("utf-8")


def test_colours_change_nothing_but_colours() -> None:
    one = Diagnostic("P012", "a [bold] m", SOURCE, at("="), (Label(at("r"), "l"),), "h\nmore")
    coloured = render([one], color=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render([one])


def test_plain_text_needs_no_rich() -> None:
    code = (
        "import sys; from peftlang.diagnostics import *; "
        "render([Diagnostic('P001', 'm', Source('a', 'b'), Span(0, 1))]); "
        "assert not {'rich', 'lark', 'torch', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_to_show() -> None:
    assert render([]) == ""
    assert render([], color=True) == ""


def test_an_error_is_read_by_a_person_and_survives_pickling() -> None:
    one = Diagnostic("P012", "expected `~`", SOURCE, at("="), help="write `~`")
    for error in (PeftError.of([one]), PeftError("m", code="D601", help="h")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 -- made here
        assert str(again) == str(error)
        assert (again.code, again.help, again.diagnostics) == (
            error.code,
            error.help,
            error.diagnostics,
        )
    assert str(PeftError("m", code="D601", help="h")) == "error[D601]: m\nhelp: h\n"
    with pytest.raises(ValueError, match="at least one"):
        PeftError.of([])
