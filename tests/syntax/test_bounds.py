"""Size and depth are bounded, and no text costs more than it is long."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from peftlang.diagnostics import Diagnostic, render
from peftlang.syntax import MAX_ERRORS, MAX_SIZE, format_file, nodes, parse_text
from peftlang.syntax.build import MAX_NESTING

HALF = MAX_SIZE // 2 - 50
MANY = 5000


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Processor time of the block itself: a collection would walk what other tests have left."""
    gc.disable()
    start = time.process_time()
    try:
        yield
        assert time.process_time() - start < seconds
    finally:
        gc.enable()


def timed(text: str, seconds: float) -> tuple[nodes.File, list[Diagnostic]]:
    with at_most(seconds):
        file, diagnostics = parse_text(text)
        render(diagnostics)
    return file, diagnostics


def test_ten_megabytes_are_refused_at_once() -> None:
    _, diagnostics = timed("method m { }\n" * 800_000, 1.0)
    assert [diagnostic.code for diagnostic in diagnostics] == ["P006"]


def test_ten_thousand_parentheses_are_refused_at_once() -> None:
    text = "method m {\n    let a = " + "(" * 10_000 + "r" + ")" * 10_000 + "\n    let b = 1\n}\n"
    file, diagnostics = timed(text, 1.0)
    assert [diagnostic.code for diagnostic in diagnostics] == ["P007"]
    (method,) = file.items
    assert isinstance(method, nodes.Method)
    assert [clause.name.text for clause in method.clauses if isinstance(clause, nodes.Let)] == ["b"]


@pytest.mark.parametrize("grow", ["a + ", "-", "a ** ", "a < b and "])
def test_depth_without_brackets_is_bounded_too(grow: str) -> None:
    text = "method m {\n    let a = " + grow * MANY + "a\n    let b = 1\n}\n"
    file, diagnostics = timed(text, 1.0)
    assert [diagnostic.code for diagnostic in diagnostics] == ["P007"]
    (method,) = file.items
    assert isinstance(method, nodes.Method)
    assert len(method.clauses) == 1


@pytest.mark.parametrize("grow", ["a + ", "-", "(", "f(", "a[", "a ** "])
def test_what_is_accepted_can_be_walked(grow: str) -> None:
    closing = {"(": ")", "f(": ")", "a[": "]"}.get(grow, "")
    for levels in range(MAX_NESTING - 4, MAX_NESTING + 3):
        file, diagnostics = parse_text(
            "method m { let a = " + grow * levels + "a" + closing * levels + " }"
        )
        assert {diagnostic.code for diagnostic in diagnostics} <= {"P007"}
        repr(file)
        assert parse_text(format_file(file))[0] == file


@pytest.mark.parametrize(
    "text",
    [
        "method m {\n" + 'let x = "a\n' * (HALF // 6),
        "method m {\n" + 'let x = """a\n' * (HALF // 7),
        "method m {\n" + "let x = (a\n" * (HALF // 6),
        "method m {\n" * (HALF // 6),
        "[{(" * (HALF // 2),
        '"""' * (HALF // 2),
        "\0" * HALF,
        "λ$" * HALF,
        "#\n" * HALF,
        "at " * (HALF // 2),
        "method m { let x = " + "(" * HALF,
        "method m { let x = " + "-" * HALF,
        "method m { let x = f(" + "a," * HALF + ")}",
        "method m { let x = f(" + "over " * (HALF // 3) + ")}",
        "method m { position " + "a," * HALF,
        "adapter m {" + "at " * (HALF // 2),
        "method m {" + "let" * (HALF // 2) + "}",
    ],
    ids=lambda text: text[:24].strip(),
)
def test_no_text_costs_more_than_it_is_long(text: str) -> None:
    timed(text, 10.0)


@pytest.mark.parametrize("line", ["let x = a # c\n# d\n\n", "param A[r] ~ zeros\n", "# {\n"])
def test_the_formatter_is_linear(line: str) -> None:
    file, diagnostics = parse_text("method m {\n" + line * (HALF // len(line)) + "}")
    assert not diagnostics
    with at_most(5.0):
        format_file(file)


def test_errors_are_bounded() -> None:
    _, diagnostics = parse_text("method m {\n" + "functoin a = b\n" * (MAX_ERRORS * 3) + "}\n")
    assert len(diagnostics) == MAX_ERRORS
