"""What is wrong with specs: raised as facts where it is found, collected, each said once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from peftlang.diagnostics import Diagnostic, Label, PeftError, Severity, Source, Span
from peftlang.syntax import nodes as n

N = TypeVar("N", bound=n.Node)
M = TypeVar("M", bound=n.Node)
S = TypeVar("S")
T = TypeVar("T")


class SpecError(PeftError):
    """A spec that cannot be used; carries every diagnostic."""


@dataclass(frozen=True, slots=True)
class Place:
    """A span, and the text that it is in."""

    source: Source
    span: Span


@dataclass(frozen=True)
class Placed(Generic[N]):
    """A node, and the text that it is in."""

    node: N
    source: Source

    @property
    def place(self) -> Place:
        return Place(self.source, self.node.span)

    @property
    def text(self) -> str:
        return self.source.slice(self.node.span)

    def beside(self, node: M) -> "Placed[M]":
        """Another node of the same text."""
        return Placed(node, self.source)


class Faults(Exception):
    """Things that are wrong; none when all of them have been said already."""

    def __init__(self, found: Iterable["Fault"] = ()) -> None:
        super().__init__()
        self.found = tuple(found)


class Fault(Faults):
    """One thing that is wrong with a piece of syntax.

    What raises it need not know which text it reads: `Report.faults`, further out, does.

    Args:
        code: As in a diagnostic, like ``message`` and ``help``.
        at: What is at fault; a place, where that may be in another text.
        labels: Other places that explain it.
    """

    def __init__(
        self,
        code: str,
        message: str,
        at: n.Node | Span | Place,
        *,
        help: str | None = None,
        labels: Iterable[tuple[Place, str]] = (),
    ) -> None:
        super().__init__([self])
        self.code, self.message, self.help, self.labels = code, message, help, labels
        self.at: Span | Place = at.span if isinstance(at, n.Node) else at


class Gathering:
    """Ends a ``with`` block at its first fault, and goes on after it.

    Args:
        take: Takes each fault; without it they are kept for `check`.
    """

    def __init__(self, take: Callable[[Fault], None] | None = None) -> None:
        self.kept: list[Fault] = []
        self._take = take or self.kept.append
        self.failed = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Faults):
            return False
        self.failed = True
        for fault in error.found:
            self._take(fault)
        return True

    def check(self) -> None:
        """Raise what was kept of all blocks.

        Raises:
            Faults: one of them did not end well.
        """
        if self.failed:
            raise Faults(self.kept)


def every(compute: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """``compute`` of every item.

    Raises:
        Faults: those of all items, where there are any.
    """
    found: list[T] = []
    gathering = Gathering()
    for item in items:
        with gathering:
            found.append(compute(item))
    gathering.check()
    return found


Key = tuple[str, str, str, Span | None]


class Report:
    """The diagnostics found so far."""

    def __init__(self) -> None:
        self._found: dict[Key, Diagnostic] = {}

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic unless the same one is there."""
        self._found.setdefault(key(diagnostic), diagnostic)

    def error(
        self,
        code: str,
        message: str,
        place: Place | None,
        *,
        help: str | None = None,
        labels: Iterable[tuple[Place, str]] = (),
        severity: Severity = "error",
    ) -> None:
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

    def faults(self, source: Source) -> Gathering:
        """Report the faults that end ``with`` blocks which read a text."""

        def take(fault: Fault) -> None:
            place = fault.at if isinstance(fault.at, Place) else Place(source, fault.at)
            self.error(fault.code, fault.message, place, help=fault.help, labels=fault.labels)

        return Gathering(take)

    def each(
        self, clauses: Iterable[Placed[N]], compute: Callable[[Placed[N]], T | None]
    ) -> list[T]:
        """``compute`` of every clause that is sound; reports what is wrong with the others."""
        found: list[T] = []
        for clause in clauses:
            with self.faults(clause.source):
                made = compute(clause)
                if made is not None:
                    found.append(made)
        return found

    @property
    def failed(self) -> bool:
        return any(d.severity == "error" for d in self._found.values())

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All of them, sorted by text and place."""
        return tuple(sorted(self._found.values(), key=lambda one: one.order))

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
