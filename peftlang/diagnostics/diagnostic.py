"""One thing that is wrong, and where."""

from dataclasses import dataclass
from typing import Literal

from peftlang.diagnostics.source import Source, Span

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Label:
    """A second place that explains the first; in the diagnostic's own source unless given."""

    span: Span
    text: str
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """A code, a sentence in the user's terms, the place, and the edit that mends it.

    `source` and `span` are both None for what has no place in a text (a command line, a
    folder on disk).
    """

    code: str
    message: str
    source: Source | None = None
    span: Span | None = None
    labels: tuple[Label, ...] = ()
    help: str | None = None
    severity: Severity = "error"

    @property
    def order(self) -> tuple[str, int, int, str]:
        """By what diagnostics are sorted: the text, the place in it, the code."""
        name = self.source.name if self.source else ""
        span = self.span or Span(0, 0)
        return name, span.start, span.end, self.code
