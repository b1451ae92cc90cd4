"""A spec against a reference at one site: outputs, and gradients of everything that trains."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from hypothesis import strategies as st

from peftlang.diagnostics import PeftError
from peftlang.verifying.comparing import (
    Differentiated,
    as_spec,
    compared,
    differentiated,
    first_place,
    unchanged,
)
from peftlang.verifying.drawing import site_cases
from peftlang.verifying.drawn_tensors import seed_of
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome, one_site
from peftlang.verifying.references.reference import Reference
from peftlang.verifying.search import CounterExample, UnfitSite, Violation, of_the_spec, search
from peftlang.verifying.site_case import PlacedMethod
from peftlang.verifying.subject import Subject

USABLE = 20
"""At how many sites a reference that differs is tried for what cannot be used at all."""


@dataclass(frozen=True)
class Comparison:
    """What comparing a spec with a reference came to.

    Attributes:
        reference: The reference's name.
        examples: How many sites were compared.
        worst: Largest relative error of those that agree.
        failure: The smallest site at which they differ; None where there is none.
    """

    reference: str
    examples: int
    worst: float
    failure: CounterExample | None


def compare(
    spec: str | Path | Subject,
    reference: Reference,
    *,
    examples: int = 60,
    seed: int = 0,
    use: str | None = None,
    tick: Callable[[int], None] = lambda _: None,
    computable: bool = True,
) -> Comparison:
    """Hold a spec to a reference at many small sites.

    Outputs are compared, and gradients with respect to every trainable tensor and every hidden
    state that the site reads. Sizes, hyper-parameters that the caller left free, number types,
    seeds and roles all vary; the first site that differs is shrunk.

    Args:
        spec: A spec, or a `Subject` that says more.
        reference: From `load_reference`, or any `Reference`.
        examples: How many sites.
        seed: The same seed tries the same sites.
        use: Label of the only use to compare; None for all.
        tick: Told the number of sites compared so far.
        computable: Whether a site where the spec cannot be computed is one where they differ.

    Raises:
        PeftError: the spec is wrong; V8xx, the reference cannot be run or gives no usable answer.
    """
    subject = spec if isinstance(spec, Subject) else Subject(spec)
    sites = site_cases(subject, use=use, training=reference.training)
    found = search(
        sites,
        lambda placed: difference(placed, reference),
        examples=examples,
        seed=seed,
        tick=tick,
        computable=computable,
    )
    failure = None
    if found.violation is not None:
        _check_usable(sites, reference, seed)
        failure = found.violation.seen_by(f"equals {reference.name}")
    return Comparison(reference.name, found.examples, found.worst, failure)


def _check_usable(sites: st.SearchStrategy[PlacedMethod], reference: Reference, seed: int) -> None:
    """Try a reference that differs at other sites: at the smallest, shapes fit by accident.

    Raises:
        PeftError: V8xx, at one of them it raises, or gives no usable answer.
    """

    def tried(placed: PlacedMethod) -> float:
        try:
            return difference(placed, reference)
        except Violation:
            return 0.0

    search(sites, tried, examples=USABLE, seed=seed, shrink=False)


def difference(placed: PlacedMethod, reference: Reference) -> float:
    """The largest relative error between the spec and the reference at one site.

    What differs in float32 is rounding where float64 agrees, and no more than that of the site's
    largest gradient. A reference that knows no float64 is held to its float32.

    Raises:
        Violation: it is past the tolerance.
        UnfitSite: the spec or the reference refuses the site's sizes.
        PeftError: V8xx, the reference gives no usable answer.
    """
    try:
        return _difference(placed, reference)
    except Violation as violation:
        if placed.case.dtype != "float32":
            raise
        precise = replace(placed.case, dtype="float64")
        try:
            _difference(replace(placed, case=precise), reference)
        except UnfitSite:
            raise violation from None
    return _difference(placed, reference, faint=1.0)


def _difference(placed: PlacedMethod, reference: Reference, faint: float | None = None) -> float:
    site: OneSite = of_the_spec(lambda: one_site(placed))
    carried = {carry.name for carry in placed.method.carries}
    ours = of_the_spec(lambda: differentiated(site, as_spec(site)))
    theirs = differentiated(
        site, lambda own, values: _called_twice(reference, site, own, values), carried
    )
    given = carried & set(theirs.outcome.targets)
    if given:
        ours = differentiated(site, as_spec(site), given)
    _check_answer(theirs, ours, reference, placed)
    return compared(ours, theirs, placed.case.dtype, faint)


def _called_twice(reference: Reference, site: OneSite, own: Values, values: Values) -> Outcome:
    """The reference's outcome; called on copies, so that it can neither write nor keep."""
    training = site.placed.case.training
    first = _once(reference, site, own, values, "random")
    again = _once(reference, site, own, values, "random" if training else "again")
    if not unchanged(first.h, again.h):
        raise PeftError(
            f"{reference.name} gives two answers for the same inputs",
            code="V809",
            help="it keeps something from call to call, or draws random numbers; compute from the "
            "arguments alone",
        )
    return first


def _once(reference: Reference, site: OneSite, own: Values, values: Values, seed: str) -> Outcome:
    # Two groups: a tensor of the method may be called like a value of the site.
    given = [{name: value.clone() for name, value in group.items()} for group in (own, values)]
    torch.manual_seed(seed_of(site.placed, seed))
    outcome = reference(site, *given)
    for group, copies in zip((own, values), given, strict=True):
        for name, value in group.items():
            if name not in copies or not unchanged(copies[name], value):
                raise PeftError(
                    f"{reference.name} changes `{name}`, which it is given to read",
                    code="V808",
                    help="compute a new tensor: `h = h + delta`, not `h += delta`",
                )
    return outcome


def _check_answer(
    theirs: Differentiated, ours: Differentiated, reference: Reference, placed: PlacedMethod
) -> None:
    h = theirs.outcome.h
    if not bool(torch.isfinite(h).all()) and bool(torch.isfinite(ours.outcome.h).all()):
        index = first_place(~torch.isfinite(h))
        raise PeftError(
            f"{reference.name} returned {h[index].item()} at {list(index)}",
            code="V806",
            help=f"it was called for {placed}",
        )
    if ours.attached and not theirs.attached:
        raise PeftError(
            f"{reference.name} returned a value that cannot be differentiated",
            code="V807",
            help="use no `.detach()`, `.data`, `torch.no_grad()` or numpy around the whole of it",
        )
