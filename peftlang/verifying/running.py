"""Trying a check on many situations, and shrinking the one that fails."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, assume, configuration, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from peftlang.diagnostics import PeftError
from peftlang.verifying.situation import Placed, Situation

configuration.set_hypothesis_home_dir(tempfile.gettempdir())


@dataclass(frozen=True)
class Difference:
    """The first place where two values are not the same.

    Attributes:
        what: What was compared: ``h``, ``gradient of A``, …
        index: Place in it, batch and token first; empty for a single number.
        got: What the spec gives there.
        wanted: What it should be.
        error: Largest difference of the whole tensor, relative to its largest magnitude.
    """

    what: str
    index: tuple[int, ...]
    got: float
    wanted: float
    error: float

    def __str__(self) -> str:
        at = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return f"{self.what}{at}: got {self.got:.6g}, wanted {self.wanted:.6g}"


@dataclass(frozen=True)
class CounterExample:
    """A situation in which a property does not hold.

    Attributes:
        property: As the contract is written, or ``reference``.
        situation: The smallest that was found.
        difference: The first differing place; None where there is no number to show.
        note: What went wrong, in a sentence.
        model: The model on which it was seen; None where it was one site.
    """

    property: str
    situation: Situation | None
    difference: Difference | None = None
    note: str = ""
    model: str | None = None


class Broken(Exception):
    """Raised by a check where the property does not hold."""

    def __init__(self, difference: Difference | None = None, note: str = "") -> None:
        super().__init__(note or str(difference))
        self.difference, self.note = difference, note
        self.situation: Situation | None = None


class _Stopped(BaseException):
    """Ends a search at once: something is wrong that no smaller situation would explain better."""

    def __init__(self, error: PeftError) -> None:
        super().__init__()
        self.error = error


@dataclass
class Search:
    """What a search came to.

    Attributes:
        examples: How many situations were tried, those that shrinking tried not counted.
        worst: Largest error among those that passed.
        broken: The smallest failing situation's fact.
    """

    examples: int = 0
    worst: float = 0.0
    broken: Broken | None = None


def search(
    strategy: st.SearchStrategy[Placed], check: Callable[[Placed], float], *,
    examples: int, seed: int = 0, tick: Callable[[int], None] = lambda _: None,
    shrink: bool = True,
) -> Search:  # fmt: skip
    """Try ``check`` on drawn situations until one breaks it; shrink that one.

    Args:
        strategy: Draws situations.
        check: Returns its largest error, or raises `Broken`.
        examples: How many to try.
        seed: The same seed draws the same situations.
        tick: Told the number of examples run so far.
        shrink: Whether a failing situation is made smaller.

    Raises:
        PeftError: V812, no drawn situation suits the method; whatever the check raises.
    """
    found = Search()

    def attempt(situation: Placed) -> None:
        try:
            error = check(situation)
        except Broken as broken:
            broken.situation = situation.situation
            found.broken = broken
            raise
        except PeftError as wrong:
            raise _Stopped(wrong) from None
        if found.broken is None:
            found.examples += 1
            found.worst = max(found.worst, error)
            tick(found.examples)

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run: Any = settings(
        max_examples=examples, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck), phases=phases,
        report_multiple_bugs=False, print_blob=False, verbosity=Verbosity.quiet,
    )(hypothesis.given(strategy)(attempt))  # fmt: skip
    try:
        hypothesis.seed(seed)(run)()
    except Broken as broken:
        found.broken = broken
        found.examples += 1
    except _Stopped as stopped:
        raise stopped.error from None
    except Unsatisfiable:
        raise PeftError(
            "no small site suits this method: every size that was tried is refused",
            code="V812",
            help="fix the hyper-parameters that sizes depend on, such as `--set b=2`",
        ) from None
    return found


def unless_unfit(compute: Callable[[], Any]) -> Any:
    """Run the spec's own expressions; sizes that the language refuses are not tried.

    These are conditions that no dimension of the spec states (a butterfly's width, rows that
    outnumber columns), and errors of their own, S408. Anything else that is raised is a bug.
    """
    try:
        return compute()
    except PeftError as refused:
        if refused.code == "S408":
            assume(False)
        raise
