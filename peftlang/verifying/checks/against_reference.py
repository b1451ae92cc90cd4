"""Rows of a report that say whether a spec is, at single sites, what a reference says."""

from collections.abc import Callable

from peftlang.diagnostics import PeftError
from peftlang.verifying.checks.equals_reference import compare
from peftlang.verifying.checks.reference_facts import check_facts, check_uses
from peftlang.verifying.drawing import site_cases
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.references.reference import Reference
from peftlang.verifying.references.spec_reference import SpecReference
from peftlang.verifying.report import Row
from peftlang.verifying.search import Violation, search
from peftlang.verifying.subject import Subject, roles_of

OF_TENSORS = ("initial", "penalty", "rates", "FROZEN", "SHARED")
"""What a file may say of tensors."""

STARTS = 6
"""Sites at which starts are looked at; each is drawn thousands of times."""

Observer = Callable[[str, int], None]
"""Told what is being checked, and on how many examples so far."""


def has_sites(subject: Subject) -> bool:
    """Whether the adapter does anything at a site, rather than train the base's own parameters."""
    return any(roles_of(use) for use in subject.default.uses)


def wants_a_model(subject: Subject, reference: Reference) -> bool:
    """Whether some of the comparison is with a whole model."""
    if isinstance(reference, PythonReference):
        return reference.has("reference_model") or reference.has("trained")
    return isinstance(reference, SpecReference) and not has_sites(subject)


def rows_against(
    subject: Subject, reference: Reference, examples: int, seed: int, observe: Observer
) -> list[Row]:
    """Hold a spec to what a reference says of single sites.

    Raises:
        PeftError: V8xx, the reference is not usable, or says nothing of a spec like this.
    """
    file = reference if isinstance(reference, PythonReference) else None
    if not has_sites(subject):
        if not wants_a_model(subject, reference):
            raise _nothing_to_compare(subject, reference)
        return []
    rows = []
    if file is None or file.has("reference"):
        rows.append(_equal(subject, reference, examples, seed, observe))
    if file is not None:
        rows += _positions(subject, file)
        rows += _tensors(subject, file, min(examples, STARTS), seed, observe)
    return rows


def _nothing_to_compare(subject: Subject, reference: Reference) -> PeftError:
    return PeftError(
        f"`{subject.name}` trains the base's own parameters, and {reference.name} says nothing of "
        "these",
        code="V802",
        help="write `def trained(model)`, which returns the names of the parameters that train, or "
        "`def reference_model(model, trained)`",
    )


def _equal(
    subject: Subject, reference: Reference, examples: int, seed: int, observe: Observer
) -> Row:
    title = f"equals {reference.name}"
    found = compare(
        subject,
        reference,
        examples=examples,
        seed=seed,
        tick=lambda n: observe(title, n),
        computable=False,
    )
    return Row(title, "", "run", found.examples, found.worst, failure=found.failure)


def _positions(subject: Subject, file: PythonReference) -> list[Row]:
    if not {"POSITIONS", "TIED"} & set(file.defined) or subject.at is not None:
        return []
    title = f"placed as {file.name} says"
    try:
        check_uses(subject.default, file.defined)
    except Violation as violation:
        return [Row(title, "", "refuted", reason=violation.note)]
    return [Row(title, "", "proved")]


def title_of_tensors(file: PythonReference) -> str:
    """What the row about starts, sharing and penalties is called."""
    return f"tensors as in {file.name}"


def _tensors(
    subject: Subject, file: PythonReference, examples: int, seed: int, observe: Observer
) -> list[Row]:
    if not any(name in file.defined for name in OF_TENSORS):
        return []
    title, rows = title_of_tensors(file), []
    for use in subject.default.uses:
        found = search(
            site_cases(subject, use=use.label, dtypes=("float32",)),
            lambda placed: check_facts(placed, file),
            examples=examples,
            seed=seed,
            tick=lambda n: observe(title, n),
            shrink=False,
        )
        rows.append(Row.of_search(found, title, use.label))
    return rows
