"""Collecting diagnostics: several in one run, each once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from peftlang.diagnostics import Diagnostic, Label, PeftError, Severity, Source, Span


class SpecError(PeftError):
    """A spec that cannot be used; carries every diagnostic."""


@dataclass(frozen=True)
class Fragment(Source):
    """A piece of spec given outside a file (``--at``), parsed inside a frame of other text.

    Diagnostics show ``shown``, whose first character is at ``offset`` of this text.
    """

    shown: Source = field(default_factory=lambda: Source("", ""))
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A span, and the text that it is in."""

    source: Source
    span: Span


Key = tuple[str, str, str, Span | None]


class Report:
    """The diagnostics found so far."""

    def __init__(self) -> None:
        self._found: dict[Key, Diagnostic] = {}
        self._context: list[Label] = []

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic unless the same one is there."""
        if diagnostic.source is not None:
            elsewhere = tuple(c for c in self._context if c.source is not diagnostic.source)
            diagnostic = replace(diagnostic, labels=diagnostic.labels + elsewhere)
        shown = as_shown(diagnostic)
        self._found.setdefault(key(shown), shown)

    def error(
        self, code: str, message: str, place: Place | None, *, help: str | None = None,
        labels: Iterable[tuple[Place, str]] = (), severity: Severity = "error",
    ) -> None:  # fmt: skip
        """Report one thing that is wrong at a place."""
        source, span = (place.source, place.span) if place else (None, None)
        marks = tuple(Label(p.span, text, p.source) for p, text in labels)
        self.add(Diagnostic(code, message, source, span, marks, help, severity))

    def warning(self, code: str, message: str, place: Place, *, help: str | None = None) -> None:
        """Report something that works but is probably not meant."""
        self.error(code, message, place, help=help, severity="warning")

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        for diagnostic in diagnostics:
            self.add(diagnostic)

    @contextmanager
    def during(self, place: Place | None, text: str) -> Iterator[None]:
        """Label what is reported meanwhile with the place that led there."""
        if place is None:
            yield
            return
        self._context.append(Label(place.span, text, place.source))
        try:
            yield
        finally:
            self._context.pop()

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self._found.values())

    @property
    def errors(self) -> int:
        """How many errors there are."""
        return sum(d.severity == "error" for d in self._found.values())

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All of them, sorted by text and place."""
        return tuple(sorted(self._found.values(), key=_order))

    def check(self) -> None:
        """Raise everything found, if there is an error among it.

        Raises:
            SpecError: there is at least one error.
        """
        if self.failed:
            raise SpecError.of(self.diagnostics)


def key(diagnostic: Diagnostic) -> Key:
    """What makes two diagnostics the same one."""
    name = diagnostic.source.name if diagnostic.source else ""
    return diagnostic.code, diagnostic.message, name, diagnostic.span


def _order(diagnostic: Diagnostic) -> tuple[str, int, int, str]:
    name = diagnostic.source.name if diagnostic.source else ""
    span = diagnostic.span or Span(0, 0)
    return name, span.start, span.end, diagnostic.code


def as_shown(diagnostic: Diagnostic) -> Diagnostic:
    """The diagnostic with the frames of fragments taken away."""
    labels = tuple(_label_shown(label) for label in diagnostic.labels)
    source, span = _shown(diagnostic.source, diagnostic.span)
    return replace(diagnostic, source=source, span=span, labels=labels)


def _label_shown(label: Label) -> Label:
    source, span = _shown(label.source, label.span)
    return Label(span or label.span, label.text, source)


def _shown(source: Source | None, span: Span | None) -> tuple[Source | None, Span | None]:
    if not isinstance(source, Fragment) or span is None:
        return source, span
    end = len(source.shown.text)
    start = min(max(span.start - source.offset, 0), end)
    return source.shown, Span(start, min(max(span.end - source.offset, start), end))
