"""Diagnostics as text: the source line, a caret run under the span, and the help."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from unicodedata import category, combining, east_asian_width

from peftlang.diagnostics.diagnostic import Diagnostic
from peftlang.diagnostics.source import Source, Span

# Columns of source shown; a longer line is cut to a window around its mark.
_WINDOW = 100
_TAB = 4
_BEFORE = 30

Piece = tuple[str, str]  # text, and the role that a theme gives a colour to
Line = list[Piece]

_COLOURS = {
    "error": "bold red",
    "warning": "bold yellow",
    "note": "bold cyan",
    "help": "bold green",
    "message": "bold",
    "frame": "blue",
    "label": "blue",
    "": "",
}


@dataclass(frozen=True, slots=True)
class _Mark:
    span: Span
    text: str
    sign: str
    role: str


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False) -> str:
    """Diagnostics as one text, sorted by place, each with its source line.

    Args:
        diagnostics: in any order; exact repetitions are shown once.
        color: with ANSI colours (imports rich). Plain text otherwise.

    Returns:
        Text that ends in a newline, or the empty string when there is nothing to show.
    """
    ordered = sorted(dict.fromkeys(diagnostics), key=lambda one: one.order)
    blocks = [list(_block(diagnostic)) for diagnostic in ordered]
    if color:
        return _coloured(blocks)
    texts = ("\n".join(_plain(line) for line in block) for block in blocks)
    return "".join(text + "\n" if last else text + "\n\n" for text, last in _with_last(texts))


def _with_last(texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    found = list(texts)
    for number, text in enumerate(found, 1):
        yield text, number == len(found)


def _plain(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()


def _block(diagnostic: Diagnostic) -> Iterator[Line]:
    yield [
        (f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity),
        (": ", ""),
        (_visible(diagnostic.message), "message"),
    ]
    source, span = diagnostic.source, diagnostic.span
    if source is not None and span is not None:
        marks = [(source, _Mark(span, "", "^", diagnostic.severity))]
        marks += [
            (label.source or source, _Mark(label.span, label.text, "-", "label"))
            for label in diagnostic.labels
        ]
        gutter = max(len(str(text.position(mark.span.start)[0])) for text, mark in marks)
        here = [mark for text, mark in marks if text == source]
        yield from _excerpt(source, here, gutter, "-->")
        for text, mark in marks:
            if text != source:
                yield from _excerpt(text, [mark], gutter, ":::")
    if diagnostic.help:
        first, *rest = _visible(diagnostic.help).split("\n")
        yield [("help", "help"), (": " + first, "")]
        for line in rest:
            yield [("      " + line, "")]


def _excerpt(source: Source, marks: list[_Mark], gutter: int, arrow: str) -> Iterator[Line]:
    number, column = source.position(marks[0].span.start)
    place = f" {_visible(source.name)}:{number}:{column}"
    yield [(" " * gutter + arrow, "frame"), (place, "")]
    blank: Line = [(" " * gutter + " |", "frame")]
    yield blank
    by_line: dict[int, list[_Mark]] = {}
    for mark in marks:
        by_line.setdefault(source.position(mark.span.start)[0], []).append(mark)
    previous: int | None = None
    for line in sorted(by_line):
        if previous is not None and line > previous + 1:
            yield [("...", "frame")]
        yield from _marked_line(source, line, by_line[line], gutter)
        previous = line
    yield blank


def _marked_line(source: Source, line: int, marks: list[_Mark], gutter: int) -> Iterator[Line]:
    first = min(mark.span.start for mark in marks)
    extent = source.line_around(first)
    window = _window(extent, first)
    text = source.slice(window)
    head = "…" if window.start > extent.start else ""
    tail = "…" if window.end < extent.end else ""
    shown, columns = _columns(text)
    number = str(line).rjust(gutter)
    yield [(f"{number} | ", "frame"), (head + shown + tail, "")]
    for mark in marks:
        start = min(max(mark.span.start - window.start, 0), len(text))
        end = min(max(mark.span.end - window.start, start), len(text))
        left = columns[start] + len(head)
        width = max(1, columns[end] - columns[start])
        note = f" {_visible(mark.text)}" if mark.text else ""
        yield [
            (" " * gutter + " | ", "frame"),
            (" " * left, ""),
            (mark.sign * width + note, mark.role),
        ]


def _window(extent: Span, first: int) -> Span:
    if extent.end - extent.start <= _WINDOW:
        return extent
    start = max(extent.start, min(first, extent.end) - _BEFORE)
    start = max(extent.start, min(start, extent.end - _WINDOW))
    return Span(start, min(extent.end, start + _WINDOW))


def _columns(text: str) -> tuple[str, list[int]]:
    """The text as a terminal can show it, and the column at which each character starts."""
    shown: list[str] = []
    columns: list[int] = []
    column = 0
    for character in text:
        columns.append(column)
        if character == "\t":
            width = _TAB - column % _TAB
            shown.append(" " * width)
        elif combining(character) or category(character) == "Mn":
            width = 0
            shown.append(character)
        elif not character.isprintable():
            width = 1
            shown.append("\N{REPLACEMENT CHARACTER}")
        else:
            width = 2 if east_asian_width(character) in "WF" else 1
            shown.append(character)
        column += width
    columns.append(column)
    return "".join(shown), columns


def _visible(text: str) -> str:
    """Text from a spec or a path may hold control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _coloured(blocks: list[list[Line]]) -> str:
    from rich.console import Console
    from rich.text import Text

    out = StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=10_000)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        for line in block:
            pieces = [(text, _COLOURS[role]) for text, role in line]
            console.print(Text.assemble(*pieces), soft_wrap=True, highlight=False)
    return out.getvalue()
