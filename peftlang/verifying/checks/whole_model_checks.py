"""The few checks that want a whole model: what one site cannot show."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from peftlang import merging, saving
from peftlang.diagnostics import PeftError
from peftlang.ir.plan import ParamGroup
from peftlang.runtime import control
from peftlang.verifying.adapted_model import AdaptedModel, output_of
from peftlang.verifying.checks.against_reference import Observer, wants_a_model
from peftlang.verifying.checks.gradients import learned_by_output
from peftlang.verifying.comparing import checked, unchanged
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.references.reference import Reference
from peftlang.verifying.references.whole_model_reference import equals_model, trains_alike
from peftlang.verifying.report import Row
from peftlang.verifying.search import (
    FAILURES,
    CounterExample,
    Difference,
    Violation,
    first_line,
)
from peftlang.verifying.subject import Subject

PRESETS = ("tiny-llama", "tiny-bert", "tiny-t5", "tiny-vit")
"""From the cheapest on; the first that has the positions is taken."""

COMPUTED = "can be computed"
"""Said in place of all further checks of a model with which the adapter cannot be computed."""

Check = Callable[[], float]
"""Returns its largest error, or raises `Violation`."""


def rows_of_models(
    subject: Subject,
    names: Sequence[str],
    reference: Reference | None = None,
    *,
    generic: bool = True,
    observe: Observer = lambda _what, _count: None,
) -> tuple[list[Row], list[str]]:
    """Check the adapter on each model that is named, or else on the first preset that it fits.

    Args:
        subject: The spec.
        names: Models.
        reference: As for `rows_on_a_model`.
        generic: As for `rows_on_a_model`.
        observe: Told of progress.

    Returns:
        The rows, and the models on which it was checked; no preset may have its positions.

    Raises:
        PeftError: a model is named and the spec does not fit it.
    """
    rows: list[Row] = []
    models: list[str] = []
    for name in names or PRESETS:
        observe(f"compiling for {name}", 0)
        try:
            adapted = AdaptedModel(subject, name)
        except PeftError as error:
            if names or not error.code.startswith("S"):
                raise
            continue
        except FAILURES as error:
            rows.append(_cannot_run(name, first_line(error)))
        else:
            rows += rows_on_a_model(adapted, reference, generic=generic, observe=observe)
        models.append(name)
        if not names:
            break
    return rows, models


def nowhere(subject: Subject) -> PeftError:
    """The error that no preset has the positions, where a comparison wants a whole model."""
    return PeftError(
        f"no preset has the positions of `{subject.name}`, and the reference is of a whole model",
        code="V814",
        help="name a model: `--model ID`",
    )


def rows_on_a_model(
    adapted: AdaptedModel,
    reference: Reference | None = None,
    *,
    generic: bool = True,
    observe: Observer = lambda _what, _count: None,
) -> list[Row]:
    """Check an adapter on a whole model: one row for each check.

    Args:
        adapted: The adapter on the model, as it starts.
        reference: What to compare it with, where that says something of whole models.
        generic: Whether to check what every adapter should keep.
        observe: Told of progress.
    """
    own = _Checks(adapted)
    checks = own.of_the_adapted() if generic else []
    if reference is not None and wants_a_model(adapted.subject, reference):
        checks += _comparisons(adapted, reference)
    checks += own.of_the_merged() if generic else []
    rows = []
    for title, check in checks:
        observe(f"{title} ({adapted.name})", 0)
        try:
            rows.append(_row(title, check, adapted.name))
        except _Stopped as stopped:
            return [*rows, stopped.row]
    return rows


def _row(title: str, check: Check, model: str) -> Row:
    full = f"{title} ({model})"
    try:
        return Row(full, "", "run", 1, check())
    except _Untried as why:
        return Row(full, "", "none", reason=str(why))
    except Violation as violation:
        failure = CounterExample(title, None, violation.difference, violation.note, model)
        return Row(full, "", "run", 1, reason=str(violation), failure=failure)
    except PeftError as refused:
        if refused.code.startswith("V"):
            raise
        raise _Stopped(_cannot_run(model, f"{refused.code}, {refused.message}")) from None
    except FAILURES as error:
        raise _Stopped(_cannot_run(model, first_line(error))) from None


def _cannot_run(model: str, why: str) -> Row:
    """The row that says so of a model on which the adapter cannot be computed."""
    failure = CounterExample(COMPUTED, None, note=why, model=model)
    return Row(f"{COMPUTED} ({model})", "", "run", 1, reason=why, failure=failure)


class _Stopped(Exception):
    """No other check of the model will say more."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row


def check_again(adapted: AdaptedModel, title: str, reference: Reference | None) -> Difference | str:
    """Run the checks up to one of them again; see `replay`."""
    for row in rows_on_a_model(adapted, reference):
        if row.property == f"{title} ({adapted.name})":
            failure = row.failure
            return "it holds" if failure is None else failure.difference or failure.note
    if title == COMPUTED:
        return "it holds"
    raise ValueError(f"no check is called {title!r}")


def _comparisons(adapted: AdaptedModel, reference: Reference) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = []
    file = reference if isinstance(reference, PythonReference) else None
    if file is not None and file.has("trained"):
        checks.append((f"trains what {file.name} says", lambda: trains_alike(adapted, file)))
    if file is None or file.has("reference_model"):
        checks.append((f"equals {reference.name}", lambda: equals_model(adapted, reference)))
    return checks


class _Checks:
    """What every adapter should keep, each as a function of the model as it was left before.

    Every call of the adapted model is one with gradients: it is compiled anew for calls without.
    """

    def __init__(self, adapted: AdaptedModel) -> None:
        self._adapted = adapted
        self._model = adapted.model
        uses = adapted.subject.default.uses
        self._promises = [{c.property for c in use.method.contracts} for use in uses]

    def _every_use_promises(self, *properties: str) -> bool:
        """Whether every use promises one of these."""
        return bool(self._promises) and all(p & set(properties) for p in self._promises)

    def of_the_adapted(self) -> list[tuple[str, Check]]:
        """Checks of the adapted model, each of which leaves it fit for the next."""
        checks: list[tuple[str, Check]] = []
        if self._every_use_promises("identity_at_init"):
            checks.append(("starts at the base", self._starts_at_the_base))
        if self._adapted.view.trainable:
            checks += [
                ("as many parameters as counted", self._count),
                ("gradients reach every tensor", self._gradients),
                ("the base stays frozen", self._frozen),
                ("saved and loaded alike", self._saved),
            ]
        if self._every_use_promises("causal", "token_local"):
            checks.append(("no token reads a later one", self._causal))
        return checks

    def of_the_merged(self) -> list[tuple[str, Check]]:
        """The last check: after it the adapter is gone."""
        if not self._every_use_promises("mergeable"):
            return []
        return [("merged equals unmerged", self._merged)]

    def _starts_at_the_base(self) -> float:
        base = copy.deepcopy(self._adapted.base).requires_grad_(False)
        wanted = output_of(base(**self._adapted.inputs))
        return _equal(self._adapted.run(), wanted, 0.0)

    def _count(self) -> float:
        plan = self._adapted.view.plan
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        if trained != plan.trainable:
            raise Violation(note=f"{trained} numbers train, and the plan counts {plan.trainable}")
        return 0.0

    def _gradients(self) -> float:
        """By the output, of each tensor that it reads; by the penalty, of the others."""
        self._adapted.randomise()
        self._model.zero_grad()
        self._adapted.run().float().pow(2).mean().backward()
        tensors = self._adapted.view.parameters()
        for name, tensor in tensors.items():
            if tensor.grad is not None and not bool(torch.isfinite(tensor.grad).all()):
                raise Violation(note=f"the gradient of `{name}` is not finite")
        dead = {name for name, tensor in tensors.items() if not _reached(tensor)}
        elsewhere = {name for name in dead if self._only_of_the_penalty(name)}
        if elsewhere:
            total = self._adapted.penalty()
            if total.requires_grad:
                total.backward()
            dead = (dead - elsewhere) | {n for n in elsewhere if not _reached(tensors[n])}
        alive = tensors.keys() - dead
        dead = {name for name in dead if not self._at_an_end_of_a_chain(name, alive)}
        if dead:
            more = f", nor {len(dead) - 1} more" if len(dead) > 1 else ""
            raise Violation(note=f"no gradient reaches `{min(dead)}`{more}")
        return 0.0

    def _only_of_the_penalty(self, name: str) -> bool:
        plan = self._adapted.view.plan
        group = plan.groups[name]
        methods = [plan.uses[label].method for label, _ in group.members if label in plan.uses]
        return bool(methods) and all(group.tensor not in learned_by_output(m) for m in methods)

    def _at_an_end_of_a_chain(self, name: str, alive: set[str]) -> bool:
        """Whether a tensor is at fault for nothing but where its site stands.

        What the last site of a stack hands on is read by none, and the first one is handed what
        may be zero, so that what it multiplies has no gradient. At other sites it has one.
        """
        plan = self._adapted.view.plan
        group = plan.groups[name]
        for label, site in group.members:
            use = plan.uses.get(label)
            if use is None or not use.method.carries:
                return False
            placement = next(p for p in plan.placements if p.label == label)
            stack = plan.sites[site].stack
            chain = [one for one in placement.sites if plan.sites[one].stack == stack]
            if site not in (chain[0], chain[-1]):
                return False
        return any(self._is_same_elsewhere(group, plan.groups[other]) for other in alive)

    @staticmethod
    def _is_same_elsewhere(group: ParamGroup, other: ParamGroup) -> bool:
        labels = {label for label, _ in group.members}
        return other.tensor == group.tensor and bool(labels & {label for label, _ in other.members})

    def _frozen(self) -> float:
        own = {id(p) for p in self._adapted.view.parameters().values()}
        rest = {n: p for n, p in self._model.named_parameters() if id(p) not in own}
        kept = {n: p.detach().clone() for n, p in rest.items()}
        trained = [p for p in self._model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        optimizer.step()
        changed = [n for n, p in rest.items() if not torch.equal(p.detach(), kept[n])]
        if changed:
            raise Violation(note=f"an optimiser step changes `{changed[0]}` of the base")
        return 0.0

    def _saved(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            where = saving.save(self._model, Path(folder) / "adapter")
            base = copy.deepcopy(self._adapted.base)
            loaded = saving.load(base, where, example_inputs=self._adapted.inputs)
        theirs = control.adapters(loaded)["default"].tensors()
        for name, tensor in self._adapted.view.tensors().items():
            if not unchanged(theirs[name], tensor):
                raise Violation(note=f"`{name}` is not what was saved")
        return 0.0

    def _causal(self) -> float:
        """Where the base is causal, so is the adapted model: the last token moves no other."""
        adapted = self._adapted
        tokens = adapted.inputs.get("input_ids")
        if not isinstance(tokens, torch.Tensor) or tokens.shape[-1] < 2:
            raise _Untried("not tried: this model reads no tokens")
        moved = tokens.clone()
        moved[:, -1] = torch.where(moved[:, -1] > 1, moved[:, -1] - 1, moved[:, -1] + 1)
        with torch.no_grad():
            other = {**adapted.inputs, "input_ids": moved}
            before = output_of(adapted.base(**adapted.inputs))
            after = output_of(adapted.base(**other))
            if before.shape != after.shape or not torch.equal(before[:, :-1], after[:, :-1]):
                raise _Untried("not tried: in this model every token reads the others")
        before, after = adapted.run(), adapted.run(other)
        what = "h at earlier tokens (the last one moved)"
        return checked(what, after[:, :-1], before[:, :-1], "float32")

    def _merged(self) -> float:
        expected = self._adapted.run()
        try:
            merged = merging.merge(self._model, example_inputs=self._adapted.inputs)
        except merging.NotMergeable as refused:
            reasons = {site.reason for site in refused.sites}
            if all("has no bias" in reason for reason in reasons):
                raise _Untried(f"not tried on this model: {min(reasons)}") from None
            raise Violation(note=refused.message) from None
        return _equal(output_of(merged(**self._adapted.inputs)), expected, 1e-4)


def _reached(parameter: torch.Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(gradient.abs().max() > 0)


class _Untried(Exception):
    """The model cannot show it: it has no bias to take a constant, say."""


def _equal(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> float:
    got, wanted = got.detach(), wanted.detach()
    error = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not error <= tolerance:
        raise Violation(note=f"outputs differ by {error:.3g}, relative to the largest")
    return error
