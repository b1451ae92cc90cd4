"""The few checks that want a whole model: what one site cannot show."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from peftlang import merging, pipeline
from peftlang.diagnostics import PeftError
from peftlang.runtime import control
from peftlang.verifying.comparing import checked
from peftlang.verifying.files import PythonReference
from peftlang.verifying.fitted import Fitted, output_of
from peftlang.verifying.holding import wants_a_model
from peftlang.verifying.modelled import equals_model, trains_alike
from peftlang.verifying.properties import learned
from peftlang.verifying.references import Reference
from peftlang.verifying.report import Row
from peftlang.verifying.running import Broken, CounterExample, Difference
from peftlang.verifying.subject import Subject

PRESETS = ("tiny-llama", "tiny-bert", "tiny-t5", "tiny-vit")
"""From the cheapest on; the first that has the positions is taken."""

Check = Callable[[], float]


def fitting(subject: Subject, names: Sequence[str]) -> list[Fitted]:
    """The adapter on each model that is named, or else on the first preset that it fits.

    Raises:
        PeftError: a model is named and the spec does not fit it.
    """
    if names:
        return [Fitted(subject, name) for name in names]
    for name in PRESETS:
        try:
            return [Fitted(subject, name)]
        except PeftError as error:
            if not error.code.startswith("S"):
                raise
    return []


def nowhere(subject: Subject) -> PeftError:
    """The error that no preset has the positions, where a comparison wants a whole model."""
    return PeftError(
        f"no preset has the positions of `{subject.name}`, and the reference is of a whole model",
        code="V814", help="name a model: `--model ID`",
    )  # fmt: skip


def on_a_model(
    fitted: Fitted, reference: Reference | None = None, *, generic: bool = True,
    observe: Callable[[str, int], None] = lambda _what, _count: None,
) -> list[Row]:  # fmt: skip
    """Check an adapter on a whole model: one row for each check.

    Args:
        fitted: The adapter on the model, as it starts.
        reference: What to compare it with, where that says something of whole models.
        generic: Whether to check what every adapter should keep.
        observe: Told of progress.
    """
    own = _Checks(fitted)
    checks = own.adapted() if generic else []
    if reference is not None and wants_a_model(fitted.subject, reference):
        checks += _compared(fitted, reference)
    checks += own.merged() if generic else []
    rows = []
    for title, check in checks:
        observe(f"{title} ({fitted.name})", 0)
        rows.append(_row(title, check, fitted))
    return rows


def _row(title: str, check: Check, fitted: Fitted) -> Row:
    full = f"{title} ({fitted.name})"
    try:
        worst = check()
    except _Untried as why:
        return Row(full, "", "none", 0, 0.0, holds=True, reason=str(why))
    except Broken as broken:
        failure = CounterExample(title, None, broken.difference, broken.note, fitted.name)
        return Row(full, "", "run", 1, 0.0, holds=False, reason=str(broken), failure=failure)
    return Row(full, "", "run", 1, worst, holds=True)


def again(fitted: Fitted, title: str, reference: Reference | None) -> Difference | str:
    """Run the checks up to one of them again; see `verify.replay`."""
    for row in on_a_model(fitted, reference):
        if row.property == f"{title} ({fitted.name})":
            failure = row.failure
            return "it holds" if failure is None else failure.difference or failure.note
    raise ValueError(f"no check is called {title!r}")


def _compared(fitted: Fitted, reference: Reference) -> list[tuple[str, Check]]:
    checks: list[tuple[str, Check]] = []
    file = reference if isinstance(reference, PythonReference) else None
    if file is not None and file.has("trained"):
        checks.append((f"trains what {file.name} says", lambda: trains_alike(fitted, file)))
    if file is None or file.has("reference_model"):
        checks.append((f"equals {reference.name}", lambda: equals_model(fitted, reference)))
    return checks


class _Checks:
    """What every adapter should keep, each as a function of the model as it was left before."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self.model = fitted.model

    @property
    def _promises(self) -> list[set[str]]:
        uses = self._fitted.subject.default.uses
        return [{c.property for c in use.method.contracts} for use in uses]

    def merged(self) -> list[tuple[str, Check]]:
        """The last check: after it the adapter is gone."""
        promises = self._promises
        mergeable = bool(promises) and all("mergeable" in p for p in promises)
        return [("merged equals unmerged", self._merged)] if mergeable else []

    def adapted(self) -> list[tuple[str, Check]]:
        """Checks of the adapted model, each of which leaves it fit for the next."""
        promises = self._promises
        checks: list[tuple[str, Check]] = []
        if promises and all("identity_at_init" in p for p in promises):
            checks.append(("starts at the base", self._starts_at_the_base))
        if self._fitted.view.trainable:
            checks += [
                ("as many parameters as counted", self._count),
                ("gradients reach every tensor", self._gradients),
                ("the base stays frozen", self._frozen),
                ("saved and loaded alike", self._saved),
            ]
        if promises and all(p & {"causal", "token_local"} for p in promises):
            checks.append(("no token reads a later one", self._causal))
        return checks

    def _starts_at_the_base(self) -> float:
        with torch.no_grad():
            base = copy.deepcopy(self._fitted.base).requires_grad_(False)
            wanted = output_of(base(**self._fitted.inputs))
            return _equal(self._fitted.run(), wanted, 0.0)

    def _count(self) -> float:
        plan = self._fitted.view.plan
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if trained != plan.trainable:
            raise Broken(note=f"{trained} numbers train, and the plan counts {plan.trainable}")
        return 0.0

    def _gradients(self) -> float:
        """By the output, of each tensor that it reads; by the penalty, of the others."""
        self._fitted.randomise()
        self.model.zero_grad()
        self._fitted.run().float().pow(2).mean().backward()
        tensors = self._fitted.view.parameters()
        dead = {n for n, p in tensors.items() if not _reached(p)}
        elsewhere = {n for n in dead if self._only_of_the_penalty(n)}
        if elsewhere:
            total = self._fitted.penalty()
            if total.requires_grad:
                total.backward()
            dead = (dead - elsewhere) | {n for n in elsewhere if not _reached(tensors[n])}
        if dead:
            more = f", nor {len(dead) - 1} more" if len(dead) > 1 else ""
            raise Broken(note=f"no gradient reaches `{min(dead)}`{more}")
        return 0.0

    def _only_of_the_penalty(self, group: str) -> bool:
        plan = self._fitted.view.plan
        found = plan.groups[group]
        methods = [plan.uses[label].method for label, _ in found.members if label in plan.uses]
        return bool(methods) and all(found.tensor not in learned(m) for m in methods)

    def _frozen(self) -> float:
        own = {id(p) for p in self._fitted.view.parameters().values()}
        rest = {n: p for n, p in self.model.named_parameters() if id(p) not in own}
        kept = {n: p.detach().clone() for n, p in rest.items()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        optimizer.step()
        changed = [n for n, p in rest.items() if not torch.equal(p.detach(), kept[n])]
        if changed:
            raise Broken(note=f"an optimiser step changes `{changed[0]}` of the base")
        return 0.0

    def _saved(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            where = pipeline.save(self.model, Path(folder) / "adapter")
            base = copy.deepcopy(self._fitted.base)
            loaded = pipeline.load(base, where, example_inputs=self._fitted.inputs)
        theirs = control.adapters(loaded)["default"].tensors()
        for name, tensor in self._fitted.view.tensors().items():
            if not torch.equal(theirs[name], tensor):
                raise Broken(note=f"`{name}` is not what was saved")
        return 0.0

    def _causal(self) -> float:
        """Where the base is causal, so is the adapted model: the last token moves no other."""
        fitted = self._fitted
        tokens = fitted.inputs.get("input_ids")
        if not isinstance(tokens, torch.Tensor) or tokens.shape[-1] < 2:
            raise _Untried("not tried: this model reads no tokens")
        moved = tokens.clone()
        moved[:, -1] = torch.where(moved[:, -1] > 1, moved[:, -1] - 1, moved[:, -1] + 1)
        with torch.no_grad():
            other = {**fitted.inputs, "input_ids": moved}
            before = output_of(fitted.base(**fitted.inputs))
            after = output_of(fitted.base(**other))
            if before.shape != after.shape or not torch.equal(before[:, :-1], after[:, :-1]):
                raise _Untried("not tried: in this model every token reads the others")
            before, after = fitted.run(), fitted.run(other)
        return checked("h at earlier tokens (the last one moved)", after[:, :-1], before[:, :-1],
                       "float32")  # fmt: skip

    def _merged(self) -> float:
        with torch.no_grad():
            expected = self._fitted.run()
            try:
                merged = merging.merge(self.model, example_inputs=self._fitted.inputs)
            except merging.NotMergeable as refused:
                reasons = {site.reason for site in refused.sites}
                if all("has no bias" in reason for reason in reasons):
                    raise _Untried(f"not tried on this model: {min(reasons)}") from None
                raise Broken(note=refused.message) from None
            return _equal(output_of(merged(**self._fitted.inputs)), expected, 1e-4)


def _reached(parameter: torch.Tensor) -> bool:
    gradient = parameter.grad
    return gradient is not None and bool(gradient.abs().max() > 0)


class _Untried(Exception):
    """The model cannot show it: it has no bias to take a constant, say."""


def _equal(got: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> float:
    error = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not error <= tolerance:
        raise Broken(note=f"outputs differ by {error:.3g}, relative to the largest")
    return error
