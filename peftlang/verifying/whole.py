"""The few checks that want a whole model: what one site cannot show."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftlang import merging, pipeline
from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Scalar
from peftlang.models import build, example_inputs, load_model
from peftlang.verifying.report import Row
from peftlang.verifying.running import CounterExample
from peftlang.verifying.subject import Subject

PRESETS = ("tiny-llama", "tiny-bert", "tiny-t5", "tiny-vit")
"""From the cheapest on; the first that has the positions is taken."""

LARGEST = 8
"""Integers that the caller left free are cut to this, which suits the presets' widths."""


def small(subject: Subject) -> dict[str, Scalar]:
    """Arguments for a tiny model."""
    entry = subject.loaded.main(subject.entry)
    large = {
        h.name: LARGEST for h in entry.hypers
        if h.kind == "int" and isinstance(h.default, int) and h.default > LARGEST
    }  # fmt: skip
    return {**large, **subject.args}


def on_a_model(
    subject: Subject, name: str | None, inputs: Mapping[str, Any] | None = None
) -> tuple[str | None, list[Row]]:
    """Check an adapter on a whole model.

    Args:
        subject: What is verified.
        name: A model; None takes the first preset that has the positions.
        inputs: Values of what the spec declares as input; random when not given.

    Returns:
        The model's name, None when no preset has the positions, and one row for each check.

    Raises:
        PeftError: ``name`` is given and the spec does not fit that model.
    """
    args = small(subject)
    for candidate in (name,) if name else PRESETS:
        try:
            checks = _Checks(subject, candidate, args)
        except PeftError as error:
            if name is not None or not error.code.startswith("S"):
                raise
            continue
        return candidate, checks.rows()
    return None, []


class _Checks:
    def __init__(self, subject: Subject, name: str, args: Mapping[str, Scalar]) -> None:
        self._subject, self._args = subject, args
        self._base = _loaded(name)
        self._inputs = example_inputs(self._base)
        self.model = self._adapted()
        self._name = name

    def _adapted(self) -> nn.Module:
        subject = self._subject
        model = copy.deepcopy(self._base)
        return pipeline.compile(
            model, subject.spec, entry=subject.entry, at=subject.at, overrides=subject.overrides,
            args=self._args, example_inputs=self._inputs,
        )  # fmt: skip

    def rows(self) -> list[Row]:
        """Every check, in an order in which each leaves the model fit for the next."""
        view = pipeline.adapters(self.model)["default"]
        promised = {c.property for use in self._subject.default.uses for c in use.method.contracts}
        everywhere = [
            {c.property for c in use.method.contracts} for use in self._subject.default.uses
        ]
        checks: list[tuple[str, Callable[[], float]]] = []
        if everywhere and all("identity_at_init" in p for p in everywhere):
            checks.append(("starts at the base", self._starts_at_the_base))
        if view.trainable:
            checks += [
                ("as many parameters as counted", self._count),
                ("gradients reach every tensor", self._gradients),
                ("the base stays frozen", self._frozen),
                ("saved and loaded alike", self._saved),
            ]
        if "mergeable" in promised and all("mergeable" in p for p in everywhere):
            checks.append(("merged equals unmerged", self._merged))
        rows = [self._row(title, check) for title, check in checks]
        return [row for row in rows if row is not None]

    def _row(self, title: str, check: Callable[[], float]) -> Row | None:
        title = f"{title} ({self._name})"
        try:
            worst = check()
        except _Untried:
            return None
        except _Wrong as wrong:
            failure = CounterExample(title, None, None, str(wrong))
            return Row(title, "", "run", 1, 0.0, holds=False, reason=str(wrong), failure=failure)
        return Row(title, "", "run", 1, worst, holds=True)

    def _run(self, model: nn.Module) -> Any:
        values = {}
        for use in self._subject.build(self._args).uses:
            for entry in use.method.inputs:
                dims = [d.evaluate({k: int(v) for k, v in use.args.items() if isinstance(v, int)})
                        for d in entry.dims]  # fmt: skip
                values[entry.name] = torch.zeros([_rows(self._inputs), *dims], dtype=(
                    torch.float32 if entry.kind == "float" else torch.long))  # fmt: skip
        if values and model is not self._base:
            with pipeline.inputs(model, **values):
                return model(**self._inputs)
        return model(**self._inputs)

    def _starts_at_the_base(self) -> float:
        with torch.no_grad():
            base = copy.deepcopy(self._base).requires_grad_(False)
            return _equal(_tensor(self._run(self.model)), _tensor(base(**self._inputs)), 0.0)

    def _count(self) -> float:
        plan = pipeline.adapters(self.model)["default"].plan
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if trained != plan.trainable:
            raise _Wrong(f"{trained} numbers train, and the plan counts {plan.trainable}")
        return 0.0

    def _gradients(self) -> float:
        self._randomise(self.model)
        self.model.zero_grad()
        _tensor(self._run(self.model)).float().pow(2).mean().backward()
        tensors = pipeline.adapters(self.model)["default"].parameters()
        dead = [n for n, p in tensors.items() if p.grad is None or not bool(p.grad.abs().max() > 0)]
        dead = [n for n in dead if not self._only_of_the_penalty(n)]
        if dead:
            raise _Wrong(f"no gradient reaches `{dead[0]}`, nor {len(dead) - 1} more")
        return 0.0

    def _only_of_the_penalty(self, name: str) -> bool:
        return any(use.method.penalties for use in self._subject.default.uses) and bool(name)

    def _frozen(self) -> float:
        own = {id(p) for p in pipeline.adapters(self.model)["default"].parameters().values()}
        rest = {n: p for n, p in self.model.named_parameters() if id(p) not in own}
        kept = {n: p.detach().clone() for n, p in rest.items()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        optimizer.step()
        changed = [n for n, p in rest.items() if not torch.equal(p.detach(), kept[n])]
        if changed:
            raise _Wrong(f"an optimiser step changes `{changed[0]}` of the base")
        return 0.0

    def _saved(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            where = pipeline.save(self.model, Path(folder) / "adapter")
            again = pipeline.load(copy.deepcopy(self._base), where, example_inputs=self._inputs)
        theirs = pipeline.adapters(again)["default"].tensors()
        for name, tensor in pipeline.adapters(self.model)["default"].tensors().items():
            if not torch.equal(theirs[name], tensor):
                raise _Wrong(f"`{name}` is not what was saved")
        return 0.0

    def _merged(self) -> float:
        with torch.no_grad():
            expected = _tensor(self._run(self.model))
            try:
                merged = merging.merge(self.model, example_inputs=self._inputs)
            except merging.NotMergeable as refused:
                if all("has no bias" in site.reason for site in refused.sites):
                    raise _Untried from None
                raise _Wrong(refused.message) from None
            return _equal(_tensor(merged(**self._inputs)), expected, 1e-4)

    def _randomise(self, model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for _, tensor in sorted(pipeline.adapters(model)["default"].parameters().items()):
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.add_(0.2 * noise.to(tensor))


class _Untried(Exception):
    """The model cannot show it: it has no bias to take a constant, say."""


class _Wrong(Exception):
    """What a whole model shows to be wrong."""


def _loaded(name: str) -> nn.Module:
    from peftlang.models import PRESETS as KNOWN

    model = build(name) if name in KNOWN else load_model(name)
    if getattr(model, "loss_type", "") is None:
        model.loss_type = None  # type: ignore[assignment]
    return model.eval()


def _rows(inputs: Mapping[str, Any]) -> int:
    return next(int(v.shape[0]) for v in inputs.values() if isinstance(v, Tensor))


def _tensor(output: Any) -> Tensor:
    """The output's main tensor: the logits, or the first floating-point tensor."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    values = output.values() if isinstance(output, Mapping) else output
    floating = (v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.dim())
    return next(floating)


def _equal(got: Tensor, wanted: Tensor, tolerance: float) -> float:
    error = float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not error <= tolerance:
        raise _Wrong(f"outputs differ by {error:.3g}, relative to the largest")
    return error
