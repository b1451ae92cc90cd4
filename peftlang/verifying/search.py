"""Trying a check at many sites, and shrinking the one at which it fails."""

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, configuration, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning, Unsatisfiable

from peftlang.diagnostics import PeftError
from peftlang.verifying.site_case import PlacedMethod, SiteCase

# Hypothesis would keep its files in the folder that the user stands in.
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
    """A site or a model at which a property does not hold.

    Attributes:
        property: As the contract is written, or what was checked besides.
        case: The smallest site that was found; None where it was a model.
        difference: The first differing place; None where there is no number to show.
        note: What went wrong, in a sentence.
        model: The model on which it was seen; None where it was one site.
    """

    property: str
    case: SiteCase | None
    difference: Difference | None = None
    note: str = ""
    model: str | None = None

    def __str__(self) -> str:
        return self.note or str(self.difference)


class Violation(Exception):
    """Raised by a check where the property does not hold."""

    def __init__(self, difference: Difference | None = None, note: str = "") -> None:
        super().__init__(note or str(difference))
        self.difference, self.note = difference, note
        self.case: SiteCase | None = None

    def seen_by(self, property_: str) -> CounterExample:
        """What it says of the property that was checked."""
        return CounterExample(property_, self.case, self.difference, self.note)


class Uncomputable(Violation):
    """Raised where the spec's own expressions cannot be computed."""


class UnfitSite(Exception):
    """Raised by a check at a site whose sizes the language or the reference refuses."""


FAILURES = (RuntimeError, IndexError, ValueError, ArithmeticError)
"""What torch raises where shapes or number types do not fit."""


class _Stopped(BaseException):
    """Ends a search at once: something is wrong that no smaller site would explain better."""

    def __init__(self, error: PeftError) -> None:
        super().__init__()
        self.error = error


@dataclass
class Search:
    """What a search came to.

    Attributes:
        examples: How many sites were tried, those that shrinking tried not counted.
        worst: Largest error among those that passed.
        violation: What is wrong at the smallest failing site.
    """

    examples: int = 0
    worst: float = 0.0
    violation: Violation | None = None


def search(
    sites: st.SearchStrategy[PlacedMethod],
    check: Callable[[PlacedMethod], float],
    *,
    examples: int,
    seed: int = 0,
    tick: Callable[[int], None] = lambda _: None,
    shrink: bool = True,
    computable: bool = False,
) -> Search:
    """Try ``check`` at drawn sites until one violates it; shrink that one.

    Args:
        sites: Draws sites.
        check: Returns its largest error, or raises `Violation` or `UnfitSite`.
        examples: How many to try.
        seed: The same seed draws the same sites.
        tick: Told the number of sites tried so far.
        shrink: Whether a failing site is made smaller.
        computable: Whether a site where the spec cannot be computed violates the check. One
            search says so of a method; in others such sites are not tried, if there are others.

    Raises:
        PeftError: V812, no drawn site suits the method; whatever the check raises.
    """
    found = Search()
    skipped: list[Uncomputable] = []

    def attempt(placed: PlacedMethod) -> None:
        try:
            error = check(placed)
        except Violation as violation:
            violation.case = placed.case
            if isinstance(violation, Uncomputable) and not computable:
                skipped.append(violation)
                hypothesis.reject()
            found.violation = violation
            raise
        except UnfitSite:
            hypothesis.reject()
        except PeftError as wrong:
            raise _Stopped(wrong) from None
        if found.violation is None:
            found.examples += 1
            found.worst = max(found.worst, error)
            tick(found.examples)

    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run: Any = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=phases,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )(hypothesis.given(sites)(attempt))
    try:
        with warnings.catch_warnings():
            # They speak of tests and their settings, of which a user of `verify` has none.
            warnings.simplefilter("ignore", HypothesisWarning)
            hypothesis.seed(seed)(run)()
    except Violation as violation:
        found.violation = violation
        found.examples += 1
    except _Stopped as stopped:
        raise stopped.error from None
    except Unsatisfiable:
        if skipped:
            return Search(1, violation=skipped[0])
        raise PeftError(
            "no small site suits this method: every size that was tried is refused",
            code="V812",
            help="fix the hyper-parameters that sizes depend on, such as `--set b=2`",
        ) from None
    return found


def of_the_spec(compute: Callable[[], Any]) -> Any:
    """Run the spec's own expressions.

    Raises:
        UnfitSite: the language refuses the site's sizes by a condition that no dimension of the
            spec states (S408): a butterfly's width, rows that outnumber columns.
        Uncomputable: they cannot be computed there.
    """
    try:
        return compute()
    except PeftError as refused:
        if refused.code == "S408":
            raise UnfitSite(refused.message) from None
        raise
    except FAILURES as error:
        raise Uncomputable(note=f"the spec cannot be computed here: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's text; torch's go on with advice about its own switches."""
    return (str(error).splitlines() or [type(error).__name__])[0]
