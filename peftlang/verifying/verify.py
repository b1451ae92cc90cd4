"""`verify`: every contract of a spec, what every method should keep, and a reference."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftlang.ir.expr import Scalar
from peftlang.ir.method import Contract, Use, fixed
from peftlang.ir.proofs import Proof, prove
from peftlang.verifying.comparing import difference
from peftlang.verifying.files import PythonReference
from peftlang.verifying.fitted import Fitted
from peftlang.verifying.holding import held, stated_at, title_of_tensors, wants_a_model
from peftlang.verifying.properties import Check, GradientsFlow, check_of
from peftlang.verifying.references import load_reference
from peftlang.verifying.report import Report, Row
from peftlang.verifying.running import Broken, CounterExample, Difference, search
from peftlang.verifying.situation import Placed, Situation, placed, situations
from peftlang.verifying.subject import Subject, roles_of
from peftlang.verifying.whole import again, fitting, nowhere, on_a_model

Observer = Callable[[str, int], None]
"""Told what is being checked, and on how many examples so far."""

FLOW = "gradients reach every tensor"


def verify(
    spec: str | Path,
    /,
    *,
    against: str | Path | None = None,
    model: str | Sequence[str] | None = None,
    whole: bool = True,
    entry: str | None = None,
    at: str | None = None,
    overrides: Sequence[str] = (),
    args: Mapping[str, Scalar] | None = None,
    examples: int = 40,
    seed: int = 0,
    observe: Observer = lambda _what, _count: None,
) -> Report:
    """Decide what a spec promises, and hold it to a reference.

    Each `ensure` clause is decided from the text where that is possible, and always tried at many
    small sites with real tensors; a failure is shrunk. A small model confirms what a site cannot
    show.

    Args:
        spec: A ``.peft`` file, a name in the standard library, or spec text.
        against: A Python file with ``reference``, a spec, or ``prefix:name``. A file is run.
        model: The model of the whole-model checks, or several; None takes the cheapest preset
            that fits.
        whole: Whether to check what every method should keep on a whole model.
        entry: Which adapter or method of the spec; needed when it has several.
        at: A selector in place of the position.
        overrides: Clauses in place of the spec's.
        args: Hyper-parameters that stay as they are; the others vary.
        examples: How many sites for each property.
        seed: The same seed tries the same sites.
        observe: Told of progress.

    Returns:
        The report; ``report.holds`` is the verdict, and ``report.check()`` raises it.

    Raises:
        PeftError: the spec is wrong or does not fit the model; V8xx, the reference is unusable.
    """
    begun = time.monotonic()
    subject = Subject(spec, entry, dict(args or {}), at, tuple(overrides))
    reference = load_reference(against) if against is not None else None
    rows: list[Row] = []
    uses = [use for use in subject.default.uses if roles_of(use)]
    for use in uses:
        rows += [
            _decided(subject, use, contract, examples, seed, observe)
            for contract in use.method.contracts
        ]
        rows.append(_flowing(subject, use, examples, seed, observe))
    compared = False
    if reference is not None:
        rows += held(subject, reference, examples, seed, observe)
        compared = wants_a_model(subject, reference)
    models: list[Fitted] = []
    if whole or compared:
        observe("a whole model", 0)
        models = fitting(subject, [model] if isinstance(model, str) else model or ())
        for fitted in models:
            rows += on_a_model(fitted, reference, generic=whole, observe=observe)
    if compared and not models:
        raise nowhere(subject)
    promised = any(use.method.contracts for use in subject.default.uses)
    return Report(
        subject, tuple(rows), None if against is None else str(against),
        tuple(fitted.name for fitted in models), time.monotonic() - begun,
        generic_only=not promised and reference is None,
    )  # fmt: skip


def _decided(
    subject: Subject, use: Use, contract: Contract, examples: int, seed: int, observe: Observer
) -> Row:
    """A contract from its text, for every role, and by running."""
    method = fixed(use.method, use.args)
    text = contract.text or contract.property
    proofs = [prove(contract, method, role) for role in roles_of(use)]
    ran = _tried(subject, use, text, check_of(contract, subject), examples, seed, observe)
    return _joined(ran, proofs)


def _joined(ran: Row, proofs: list[Proof]) -> Row:
    reasons = "; ".join(dict.fromkeys(p.reason for p in proofs))
    if not ran.holds:
        refuted = any(p.verdict == "refuted" for p in proofs)
        return _with(ran, "both" if refuted else "run", reasons if refuted else ran.reason)
    if any(p.verdict == "refuted" for p in proofs):
        wrong = next(p for p in proofs if p.verdict == "refuted")
        return Row(ran.property, ran.use, "refuted", ran.examples, ran.worst, holds=False,
                   reason=wrong.reason)  # fmt: skip
    return _with(ran, "both" if all(p.verdict == "proved" for p in proofs) else "run", reasons)


def _with(row: Row, how: str, reason: str) -> Row:
    return Row(row.property, row.use, "both" if how == "both" else "run", row.examples, row.worst,
               row.holds, reason, row.failure)  # fmt: skip


def _tried(
    subject: Subject, use: Use, text: str, check: Check, examples: int, seed: int,
    observe: Observer,
) -> Row:  # fmt: skip
    found = search(situations(subject, use=use.label), check, examples=examples, seed=seed,
                   tick=lambda n: observe(text, n))  # fmt: skip
    failure = None
    if found.broken is not None:
        failure = CounterExample(text, found.broken.situation, found.broken.difference,
                                 found.broken.note)  # fmt: skip
    return Row(text, use.label, "run", found.examples, found.worst, failure is None, "", failure)


def replay(
    spec: str | Path, text: str, /, *, entry: str | None = None, at: str | None = None,
    overrides: Sequence[str] = (), against: str | Path | None = None, model: str | None = None,
    **situation: Any,
) -> Difference | str:  # fmt: skip
    """Run one property at one site or on one model again, as a counter-example's script does.

    Args:
        spec: As for `verify`.
        text: The property, as the report writes it.
        entry: As for `verify`.
        at: As for `verify`.
        overrides: As for `verify`.
        against: As for `verify`, where ``text`` is a comparison.
        model: The model, where ``text`` is of a whole model.
        **situation: The fields of a `Situation`; ``args`` has every hyper-parameter. With a
            model, ``args`` alone.

    Returns:
        The first differing place, or a sentence; ``"it holds"`` where it does.

    Raises:
        PeftError: the spec or the reference is wrong.
    """
    if model is not None:
        given = situation.get("args", {})
        fitted = Fitted(Subject(spec, entry, given, at, tuple(overrides)), model)
        return again(fitted, text, None if against is None else load_reference(against))
    where = Situation(**situation)
    subject = Subject(spec, entry, where.args, at, tuple(overrides))
    here = placed(subject, where)
    try:
        _check_named(text, here.use, subject, against)(here)
    except Broken as broken:
        return broken.difference or broken.note
    return "it holds"


def _flowing(subject: Subject, use: Use, examples: int, seed: int, observe: Observer) -> Row:
    check = GradientsFlow()
    row = _tried(subject, use, FLOW, check, examples, seed, observe)
    if not row.holds or not check.dead or check.last is None:
        return row
    note = f"the gradient of `{check.dead[0]}` is zero at every site"
    failure = CounterExample(FLOW, check.last.situation, None, note)
    return Row(FLOW, use.label, "run", row.examples, 0.0, holds=False, reason=note,
               failure=failure)  # fmt: skip


def _check_named(text: str, use: Use, subject: Subject, against: str | Path | None) -> Check:
    if text == FLOW:
        return _flow_here
    for contract in fixed(use.method, use.args).contracts:
        if text in (contract.text, contract.property):
            return check_of(contract, subject)
    assert against is not None, f"no property `{text}`"
    reference = load_reference(against)
    if isinstance(reference, PythonReference) and text == title_of_tensors(reference):
        return lambda here: stated_at(here, reference)
    return lambda here: difference(here, reference)


def _flow_here(here: Placed) -> float:
    check = GradientsFlow()
    check(here)
    if check.dead:
        raise Broken(note=f"the gradient of `{check.dead[0]}` is zero")
    return 0.0
