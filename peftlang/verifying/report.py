"""What verifying a spec found, for the eye and for programs."""

from dataclasses import dataclass
from typing import Any, Literal

from peftlang.diagnostics import PeftError
from peftlang.verifying.running import CounterExample
from peftlang.verifying.subject import Subject

How = Literal["proved", "run", "both", "refuted", "none"]


@dataclass(frozen=True)
class Row:
    """One property.

    Attributes:
        property: As the contract is written, or what was checked besides.
        use: The use that it is of; "" for the whole adapter.
        how: ``proved`` from the text, ``run``, ``both``, ``refuted`` from the text, or ``none``
            where the model cannot show it.
        examples: How many sites or models it was run on.
        worst: Largest relative error seen.
        holds: The verdict.
        reason: Why, in a sentence.
        failure: The smallest counter-example.
    """

    property: str
    use: str
    how: How
    examples: int
    worst: float
    holds: bool
    reason: str = ""
    failure: CounterExample | None = None


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
                f"`{self.subject.name}` does not keep `{broken.property}`: {explained(broken)}",
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
            "properties": [_row_facts(row, self) for row in self.rows],
        }


def _row_facts(row: Row, report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {
        "property": row.property, "use": row.use, "how": row.how, "examples": row.examples,
        "worst_error": row.worst, "holds": row.holds, "reason": row.reason,
        "counter_example": None,
    }  # fmt: skip
    failure = row.failure
    if failure is not None:
        place = failure.difference
        found["counter_example"] = {
            "situation": failure.situation.facts() if failure.situation else None,
            "difference": None if place is None else {
                "what": place.what, "index": list(place.index), "got": place.got,
                "wanted": place.wanted, "error": place.error,
            },
            "note": failure.note,
            "script": script(report, row),
        }  # fmt: skip
    return found


def explained(row: Row) -> str:
    """What is wrong, in a line."""
    failure = row.failure
    if failure is None:
        return row.reason
    return failure.note or str(failure.difference)


def script(report: Report, row: Row) -> str:
    """Three lines of Python that show the counter-example again."""
    failure, subject = row.failure, report.subject
    if failure is None:
        return ""
    given = [repr(str(subject.spec)), repr(failure.property)]
    if failure.situation is not None:
        situation = failure.situation.facts()
        situation["args"] = {**subject.args, **situation["args"]}
    else:
        situation = {"model": failure.model, "args": dict(subject.args)}
    for key, value in (
        ("entry", subject.entry), ("at", subject.at),
        ("overrides", tuple(subject.overrides) or None), ("against", report.against),
    ):  # fmt: skip
        if value is not None:
            given.append(f"{key}={value!r}")
    return (
        "from peftlang.verifying import replay\n"
        f"situation = {situation!r}\n"
        f"print(replay({', '.join(given)}, **situation))\n"
    )


def written(row: Row, report: Report) -> str:
    """A failing row at length: sizes, seed, site, first differing place, and the script."""
    lines = [f"{row.property} does not hold{f' for {row.use}' if row.use else ''}"]
    failure = row.failure
    if failure is None:
        return f"{lines[0]}: {row.reason}"
    if failure.model is not None:
        lines.append(f"  model  {failure.model}")
    if failure.situation is not None:
        s = failure.situation
        lines.append("  sizes  " + ", ".join(f"{k} = {v}" for k, v in (s.sizes | s.args).items()))
        lines.append(f"  seed   {s.seed}, {s.dtype}")
        flags = [name for name in ("bias", "causal", "training") if getattr(s, name)]
        lines.append(f"  site   {s.role} of {s.use}" + (f" ({', '.join(flags)})" if flags else ""))
    lines.append(f"  place  {explained(row)}")
    text = script(report, row)
    if text:
        lines += ["", "  again, with Python:", "", *(f"    {line}" for line in text.splitlines())]
    return "\n".join(lines)
