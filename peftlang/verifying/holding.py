"""Rows of a report that say whether a spec is what a reference says."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from peftlang.diagnostics import PeftError
from peftlang.verifying.comparing import compare
from peftlang.verifying.files import PythonReference, describe
from peftlang.verifying.others import SpecReference
from peftlang.verifying.references import Reference
from peftlang.verifying.report import Row
from peftlang.verifying.running import Broken, CounterExample, search, unless_unfit
from peftlang.verifying.situation import Placed, situations
from peftlang.verifying.stated import check_stated, check_uses
from peftlang.verifying.subject import Subject, roles_of

STATED = ("initial", "penalty", "rates", "FROZEN", "SHARED")
STARTS = 6
"""Sites at which starts are looked at; each is drawn thousands of times."""


def has_sites(subject: Subject) -> bool:
    """Whether the adapter does anything at a site, rather than train the base's own parameters."""
    return any(roles_of(use) for use in subject.default.uses)


def wants_a_model(subject: Subject, reference: Reference) -> bool:
    """Whether some of the comparison is with a whole model."""
    if isinstance(reference, PythonReference):
        return reference.has("reference_model") or reference.has("trained")
    return isinstance(reference, SpecReference) and not has_sites(subject)


def held(
    subject: Subject, reference: Reference, examples: int, seed: int,
    observe: Callable[[str, int], None],
) -> list[Row]:  # fmt: skip
    """Hold a spec to what a reference says of single sites.

    Raises:
        PeftError: V8xx, the reference is not usable, or says nothing of a spec like this.
    """
    rows = []
    placed = has_sites(subject)
    file = reference if isinstance(reference, PythonReference) else None
    if not placed and not wants_a_model(subject, reference):
        raise _nothing_to_hold(subject, reference)
    if placed and (file is None or file.has("reference")):
        title = f"equals {reference.name}"
        found = compare(subject, reference, examples=examples, seed=seed,
                        tick=lambda n: observe(title, n))  # fmt: skip
        rows.append(Row(title, "", "run", found.examples, found.worst,
                        holds=found.failure is None, failure=found.failure))  # fmt: skip
    if file is not None and placed:
        rows += _positions(subject, file)
        rows += _tensors(subject, file, min(examples, STARTS), seed, observe)
    return rows


def _nothing_to_hold(subject: Subject, reference: Reference) -> PeftError:
    return PeftError(
        f"`{subject.name}` trains the base's own parameters, and {reference.name} says nothing of "
        "these", code="V802",
        help="write `def trained(model)`, which returns the names of the parameters that train, or "
        "`def reference_model(model, trained)`",
    )  # fmt: skip


def _positions(subject: Subject, file: PythonReference) -> list[Row]:
    if not {"POSITIONS", "TIED"} & set(file.stated) or subject.at is not None:
        return []
    title = f"placed as {file.name} says"
    try:
        check_uses(subject.default, file.stated)
    except Broken as broken:
        return [Row(title, "", "refuted", 0, 0.0, holds=False, reason=broken.note)]
    return [Row(title, "", "proved", 0, 0.0, holds=True)]


def title_of_tensors(reference: Reference) -> str:
    """What the row about starts, sharing and penalties is called."""
    return f"tensors as in {reference.name}"


def _tensors(
    subject: Subject, file: PythonReference, examples: int, seed: int,
    observe: Callable[[str, int], None],
) -> list[Row]:  # fmt: skip
    if not any(name in file.stated for name in STATED):
        return []
    title, rows = title_of_tensors(file), []
    for use in subject.default.uses:
        drawn = situations(subject, use=use.label, dtypes=("float32",))
        found = search(drawn, lambda here: stated_at(here, file), examples=examples, seed=seed,
                       tick=lambda n: observe(title, n), shrink=False)  # fmt: skip
        failure, broken = None, found.broken
        if broken is not None:
            failure = CounterExample(title, broken.situation, broken.difference, broken.note)
        rows.append(Row(title, use.label, "run", found.examples, found.worst,
                        holds=failure is None, failure=failure))  # fmt: skip
    return rows


def stated_at(here: Placed, file: PythonReference) -> float:
    """Hold a use at one site to the file's starts, sharing and penalty.

    Raises:
        Broken: something differs.
        PeftError: V802, V803, V804, a function of the file is not usable.
    """
    where = str(here.situation)

    def initial(site: Any, weight: Tensor | None, bias: Tensor | None) -> Mapping[str, Any]:
        given = {"site": site, "W": weight, "b": bias}
        claims = file.call("initial", given, where)
        kinds = (Tensor, Distribution)
        if not isinstance(claims, Mapping) or not all(
            isinstance(claim, kinds) or callable(claim) for claim in claims.values()
        ):
            raise PeftError(
                f"`initial` of {file.name} returned {describe(claims)}", code="V804",
                help="return, for each tensor by name, a tensor, a torch distribution of the "
                "tensor's shape, or a function that says whether many starts will do",
            )  # fmt: skip
        return claims

    def penalty(site: Any, params: Any, values: Mapping[str, Tensor]) -> Tensor:
        found = file.call("penalty", {**values, "site": site, "params": params}, where)
        if not isinstance(found, Tensor) or found.dim():
            raise PeftError(
                f"`penalty` of {file.name} returned {describe(found)}", code="V804",
                help="return a scalar tensor",
            )  # fmt: skip
        return found

    def rates(site: Any) -> Mapping[str, float]:
        found = file.call("rates", {"site": site}, where)
        if not isinstance(found, Mapping) or not all(map(_is_number, found.values())):
            raise PeftError(
                f"`rates` of {file.name} returned {describe(found)}", code="V804",
                help="return a number for each tensor by name, as multiples of the adapter's rate",
            )  # fmt: skip
        return found

    given = {"initial": initial, "penalty": penalty, "rates": rates}
    stated = {**file.stated, **{k: v for k, v in given.items() if file.has(k)}}
    unless_unfit(lambda: file.guard(lambda: check_stated(here, stated), where, theirs=False))
    return 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
