"""`replay`: one property at one site or on one model again, as a counter-example's script does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlang.ir.method import Use, fixed
from peftlang.verifying.adapted_model import AdaptedModel
from peftlang.verifying.checks.against_reference import title_of_tensors
from peftlang.verifying.checks.contracts import Check, check_of
from peftlang.verifying.checks.equals_reference import difference
from peftlang.verifying.checks.gradients import GradientsReach
from peftlang.verifying.checks.reference_facts import check_facts
from peftlang.verifying.checks.whole_model_checks import check_again
from peftlang.verifying.references.loading import load_reference
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.search import Difference, UnfitSite, Violation
from peftlang.verifying.site_case import PlacedMethod, SiteCase, place
from peftlang.verifying.subject import Subject
from peftlang.verifying.verdict import COMPUTED, GRADIENTS


def replay(
    spec: str | Path,
    text: str,
    /,
    *,
    entry: str | None = None,
    at: str | None = None,
    overrides: Sequence[str] = (),
    against: str | Path | None = None,
    model: str | None = None,
    **case: Any,
) -> Difference | str:
    """Run one property again.

    Args:
        spec: As for `verify`.
        text: The property, as the report writes it.
        entry: As for `verify`.
        at: As for `verify`.
        overrides: As for `verify`.
        against: As for `verify`, where ``text`` is a comparison.
        model: The model, where ``text`` is of a whole model.
        **case: The fields of a `SiteCase`; ``args`` has every hyper-parameter. With a model,
            ``args`` alone.

    Returns:
        The first differing place, or a sentence; ``"it holds"`` where it does.

    Raises:
        PeftError: the spec or the reference is wrong.
    """
    if model is not None:
        given = case.get("args", {})
        adapted = AdaptedModel(Subject(spec, entry, given, at, tuple(overrides)), model)
        return check_again(adapted, text, None if against is None else load_reference(against))
    where = SiteCase(**case)
    subject = Subject(spec, entry, where.args, at, tuple(overrides))
    placed = place(subject, where)
    try:
        _check_named(text, placed.use, subject, against)(placed)
    except Violation as violation:
        return violation.difference or violation.note
    except UnfitSite as unfit:
        return f"it is not tried here: {unfit}"
    return "it holds"


def _check_named(text: str, use: Use, subject: Subject, against: str | Path | None) -> Check:
    if text in (GRADIENTS, COMPUTED):
        return _gradients_here
    for contract in fixed(use.method, use.args).contracts:
        if text in (contract.text, contract.property):
            return check_of(contract, subject)
    assert against is not None, f"no property `{text}`"
    reference = load_reference(against)
    if isinstance(reference, PythonReference) and text == title_of_tensors(reference):
        return lambda placed: check_facts(placed, reference)
    return lambda placed: difference(placed, reference)


def _gradients_here(placed: PlacedMethod) -> float:
    check = GradientsReach()
    check(placed)
    if check.dead:
        raise Violation(note=f"the gradient of `{check.dead[0]}` is zero")
    return 0.0
