"""Where the commands print: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from peftlang.diagnostics import Diagnostic, PeftError, Source, Span, render

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Piped output is for programs and for golden files: never wrapped to some terminal's width.
_PIPED_WIDTH = 10_000


def console() -> "Console":
    """The console for results."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(highlight=False, width=width, soft_wrap=False)


def error_console() -> "Console":
    """The console for errors and progress."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else _PIPED_WIDTH
    return Console(stderr=True, highlight=False, width=width)


def print_text(text: str) -> None:
    """Print `text` on stdout exactly as it is."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def print_json(value: Any) -> None:
    """Print `value` on stdout as JSON, one document."""
    print_text(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(error: PeftError) -> None:
    """Print an error of the user's on stderr, with its source lines where it has them."""
    print_diagnostics(
        error.diagnostics or (Diagnostic(error.code, error.message, help=error.help),)
    )


def print_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Print diagnostics on stderr, in colour on a terminal."""
    in_color = sys.stderr.isatty() and error_console().color_system is not None
    sys.stderr.write(render(diagnostics, color=in_color))


def as_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """A diagnostic for programs; lines and columns count from 1, the end is exclusive."""
    found: dict[str, Any] = {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "help": diagnostic.help,
    }
    if diagnostic.source is not None and diagnostic.span is not None:
        found |= _place(diagnostic.source, diagnostic.span)
        found["labels"] = [
            {"text": label.text, **_place(label.source or diagnostic.source, label.span)}
            for label in diagnostic.labels
        ]
    return found


def _place(source: Source, span: Span) -> dict[str, Any]:
    start, end = source.position(span.start), source.position(span.end)
    return {
        "file": source.name,
        "start": {"line": start[0], "column": start[1]},
        "end": {"line": end[0], "column": end[1]},
    }


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner on a terminal's stderr while the body runs; nothing when piped.

    Args:
        what: What is being done, as a participle: "capturing tiny-llama".
    """
    with error_console().status(what):
        yield


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "") -> "Table":
    """A plain table.

    Args:
        columns: The headings.
        rows: One cell for each heading.
        right: Headings, separated by spaces, whose columns are aligned to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    numeric = right.split()
    for column in columns:
        drawn.add_column(column, justify="right" if column in numeric else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    return drawn
