"""What verifying a spec found, as data."""

import builtins
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from peftlang.diagnostics import PeftError, Source, Span
from peftlang.verifying.search import CounterExample, Search
from peftlang.verifying.subject import Subject

How = Literal["proved", "run", "both", "refuted", "none"]


@dataclass(frozen=True)
class Place:
    """Where in a spec the reason of a verdict stands."""

    source: Source
    span: Span

    def facts(self) -> dict[str, Any]:
        line, column = self.source.position(self.span.start)
        text = self.source.slice(self.span)
        return {"file": self.source.name, "line": line, "column": column, "text": text}


@dataclass(frozen=True)
class Row:
    """One property.

    Attributes:
        property: As the contract is written, or what was checked besides.
        use: The use that it is of; "" for the whole adapter.
        how: What decided: ``proved`` or ``refuted`` from the text alone, ``run``, ``both`` the
            text and running, or ``none`` where the model cannot show it.
        examples: How many sites or models it was run on.
        worst: Largest relative error seen.
        reason: Why, in a clause.
        place: Where in the spec the reason stands.
        failure: The smallest counter-example.
    """

    property: str
    use: str
    how: How
    examples: int = 0
    worst: float = 0.0
    reason: str = ""
    place: Place | None = None
    failure: CounterExample | None = None

    @classmethod
    def of_search(cls, found: Search, property_: str, use: str) -> Self:
        """What trying a property at many sites came to."""
        failure = None if found.violation is None else found.violation.seen_by(property_)
        return cls(property_, use, "run", found.examples, found.worst, failure=failure)

    @builtins.property
    def holds(self) -> bool:
        return self.failure is None and self.how != "refuted"

    @builtins.property
    def wrong(self) -> str:
        """What is wrong at the counter-example, or in the text, in a line."""
        return self.reason if self.failure is None else str(self.failure)


@dataclass(frozen=True)
class Report:
    """Every row, and what it takes to try a counter-example again.

    Attributes:
        subject: What was verified.
        rows: One for each property.
        against: The reference, if one was given.
        models: Presets or models of the whole-model checks.
        seconds: Wall time.
        generic_only: Whether there was neither a contract nor a reference.
    """

    subject: Subject
    rows: tuple[Row, ...]
    against: str | None = None
    models: tuple[str, ...] = ()
    seconds: float = 0.0
    generic_only: bool = False

    @property
    def holds(self) -> bool:
        return all(row.holds for row in self.rows)

    def check(self) -> None:
        """Raise where a property does not hold.

        Raises:
            PeftError: V813, with the first counter-example.
        """
        broken = next((row for row in self.rows if not row.holds), None)
        if broken is not None:
            raise PeftError(
                f"`{self.subject.name}` does not keep `{broken.property}`: {broken.wrong}",
                code="V813",
                help="`peftlang verify` prints the counter-example and a script for it",
            )

    def facts(self) -> dict[str, Any]:
        """As plain values; the keys do not change between versions."""
        return {
            "spec": str(self.subject.spec),
            "adapter": self.subject.name,
            "holds": self.holds,
            "against": self.against,
            "models": list(self.models),
            "seconds": round(self.seconds, 3),
            "generic_only": self.generic_only,
            "properties": [self._row_facts(row) for row in self.rows],
        }

    def _row_facts(self, row: Row) -> dict[str, Any]:
        return {
            "property": row.property,
            "use": row.use,
            "how": row.how,
            "examples": row.examples,
            "worst_error": row.worst,
            "holds": row.holds,
            "reason": row.reason,
            "place": row.place and row.place.facts(),
            "counter_example": self._counter_example(row),
        }

    def _counter_example(self, row: Row) -> dict[str, Any] | None:
        failure = row.failure
        if failure is None:
            return None
        return {
            "situation": failure.case and failure.case.facts(),
            "difference": failure.difference and asdict(failure.difference),
            "note": failure.note,
            "script": self.script(row),
        }

    def script(self, row: Row) -> str:
        """Three lines of Python that show the counter-example of a row again."""
        failure, subject = row.failure, self.subject
        if failure is None:
            return ""
        if failure.case is not None:
            case = failure.case.facts()
            case["args"] = {**subject.args, **case["args"]}
        else:
            case = {"model": failure.model, "args": dict(subject.args)}
        options = {
            "entry": subject.entry,
            "at": subject.at,
            "overrides": tuple(subject.overrides) or None,
            "against": self.against,
        }
        given = [repr(str(subject.spec)), repr(failure.property)]
        given += [f"{key}={value!r}" for key, value in options.items() if value is not None]
        return (
            "from peftlang.verifying import replay\n"
            f"case = {case!r}\n"
            f"print(replay({', '.join(given)}, **case))\n"
        )
