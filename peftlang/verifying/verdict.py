"""`verify`: every contract of a spec, what every method should keep, and a reference."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftlang.ir.expr import Scalar
from peftlang.ir.method import Contract, Use, fixed
from peftlang.ir.proofs import prove
from peftlang.verifying.checks.against_reference import Observer, rows_against, wants_a_model
from peftlang.verifying.checks.contracts import Check, check_of
from peftlang.verifying.checks.gradients import GradientsReach
from peftlang.verifying.checks.refuting import place_of, reason_of
from peftlang.verifying.checks.whole_model_checks import nowhere, rows_of_models
from peftlang.verifying.drawing import site_cases
from peftlang.verifying.references.loading import load_reference
from peftlang.verifying.report import How, Report, Row
from peftlang.verifying.search import CounterExample, Search, Uncomputable, search
from peftlang.verifying.subject import Subject, roles_of

GRADIENTS = "gradients reach every tensor"
COMPUTED = "can be computed at every site"
"""Said in place of `GRADIENTS` of a method that cannot be computed at some site."""


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
    trial = _Trial(subject, examples, seed, observe)
    rows: list[Row] = []
    for use in subject.default.uses:
        if roles_of(use):
            rows += [trial.contract(use, contract) for contract in use.method.contracts]
            rows.append(trial.gradients(use))
    compared = False
    if reference is not None:
        rows += rows_against(subject, reference, examples, seed, observe)
        compared = wants_a_model(subject, reference)
    models: list[str] = []
    if whole or compared:
        names = [model] if isinstance(model, str) else model or ()
        found, models = rows_of_models(subject, names, reference, generic=whole, observe=observe)
        rows += found
    if compared and not models:
        raise nowhere(subject)
    promised = any(use.method.contracts for use in subject.default.uses)
    return Report(
        subject,
        tuple(rows),
        against=None if against is None else str(against),
        models=tuple(models),
        seconds=time.monotonic() - begun,
        generic_only=not promised and reference is None,
    )


@dataclass(frozen=True)
class _Trial:
    """What is tried at sites, and how often."""

    subject: Subject
    examples: int
    seed: int
    observe: Observer

    def contract(self, use: Use, contract: Contract) -> Row:
        """A contract from its text, for every role, and by running."""
        method, text = fixed(use.method, use.args), contract.text or contract.property
        found = self._tried(use, text, check_of(contract, self.subject))
        ran = Row.of_search(found, text, use.label)
        if isinstance(found.violation, Uncomputable):
            return ran
        proofs = {role: prove(contract, method, role) for role in roles_of(use)}
        wrong = [role for role, proof in proofs.items() if proof.verdict == "refuted"]
        if ran.holds and not wrong:
            proved = all(proof.verdict == "proved" for proof in proofs.values())
            reasons = "; ".join(dict.fromkeys(proof.reason for proof in proofs.values()))
            return replace(ran, how="both" if proved else "run", reason=reasons)
        case = ran.failure and ran.failure.case
        # The role at which it fails, rather than another that is refuted for another reason.
        role = case.role if case and (not wrong or case.role in wrong) else wrong[0]
        reason = reason_of(contract, method, role, proofs[role])
        how: How = "both" if wrong and ran.failure else "run" if ran.failure else "refuted"
        place = place_of(self.subject, use, reason.span)
        return replace(ran, how=how, reason=reason.text, place=place)

    def gradients(self, use: Use) -> Row:
        """Whether every tensor has a gradient at some site."""
        check = GradientsReach()
        found = self._tried(use, GRADIENTS, check, computable=True)
        computed = not isinstance(found.violation, Uncomputable)
        row = Row.of_search(found, GRADIENTS if computed else COMPUTED, use.label)
        if not row.holds or not check.dead or check.last is None:
            return row
        note = f"the gradient of `{check.dead[0]}` is zero at every site"
        failure = CounterExample(GRADIENTS, check.last.case, None, note)
        return replace(row, worst=0.0, reason=note, failure=failure)

    def _tried(self, use: Use, text: str, check: Check, *, computable: bool = False) -> Search:
        return search(
            site_cases(self.subject, use=use.label),
            check,
            examples=self.examples,
            seed=self.seed,
            tick=lambda n: self.observe(text, n),
            computable=computable,
        )
