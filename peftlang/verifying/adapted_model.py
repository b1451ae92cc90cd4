"""A spec compiled for one small model."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftlang import pipeline
from peftlang.ir.expr import Scalar
from peftlang.ir.sizes import site_sizes
from peftlang.models import build, example_inputs, load_model
from peftlang.runtime import control
from peftlang.verifying.subject import Subject
from peftlang.verifying.tokens import named_ids

LARGEST = 8
"""Integers that the caller left free are cut to this, which suits the presets' widths."""


def small_arguments(subject: Subject) -> dict[str, Scalar]:
    """Arguments for a tiny model."""
    hypers = subject.loaded.main(subject.entry).hypers
    integers = {h.name: h.default for h in hypers if isinstance(h.default, int) and h.kind == "int"}
    large = {name: LARGEST for name, default in integers.items() if default > LARGEST}
    return {**large, **subject.args}


class AdaptedModel:
    """An adapter on a copy of a model, in eval mode.

    Attributes:
        subject: What is verified.
        name: The model.
        args: Every hyper-parameter that is not the spec's default.
        base: The model without the adapter.
        model: The adapted copy.
        inputs: Keyword arguments of a small call.
        given: Random values of what the spec declares as ``input``.

    Raises:
        PeftError: the spec does not fit the model.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject, self.name, self.args = subject, name, small_arguments(subject)
        self.base = _loaded(name)
        self.inputs = varied(example_inputs(self.base), self.base)
        self.model = self._adapted()
        self._name_tokens()
        self.given = self._given()
        parameters = self.view.parameters().items()
        self._starts = {name: value.detach().clone() for name, value in parameters}

    def _adapted(self) -> nn.Module:
        subject = self.subject
        return pipeline.compile(
            copy.deepcopy(self.base),
            subject.spec,
            entry=subject.entry,
            at=subject.at,
            overrides=subject.overrides,
            args=self.args,
            example_inputs=self.inputs,
        )

    def _name_tokens(self) -> None:
        """Let some of the tokens have the ids that the spec asks for, so that it acts."""
        ids: list[int] = []
        for use in self.view.plan.uses.values():
            sizes = {k: v for k, v in use.args.items() if type(v) is int}
            ids += named_ids(use.method, use.args, sizes)
        for name, value in self.inputs.items():
            if isinstance(value, Tensor) and name.endswith("input_ids"):
                fitting = [one for one in ids if one < _vocabulary(self.base)]
                count = min(len(fitting), value.shape[1] - 1)
                value[:, 1 : 1 + count] = torch.tensor(fitting[:count])

    @property
    def view(self) -> control.AdapterView:
        """The adapter, for looking at."""
        return control.adapters(self.model)["default"]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return next(int(v.shape[0]) for v in self.inputs.values() if isinstance(v, Tensor))

    def run(self, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """What the adapted model gives for the small call, or for another."""
        wanted = self.inputs if inputs is None else inputs
        if not self.given:
            return output_of(self.model(**wanted))
        with control.inputs(self.model, **self.given):
            return output_of(self.model(**wanted))

    def penalty(self) -> Tensor:
        """The sum of the adapter's penalties in a training call, a scalar."""
        self.model.train()
        self.run()
        self.model.eval()
        terms = control.penalties(self.model).values()
        return sum((term.float() for term in terms), torch.zeros(()))

    def _given(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(11)
        found: dict[str, Tensor] = {}
        plan = self.view.plan
        for placement in plan.placements:
            use = plan.uses[placement.label]
            sizes = site_sizes(use.method, use.args, plan.sites[placement.sites[0]])
            for entry in use.method.inputs:
                shape = [self.rows, *(d.evaluate(sizes) for d in entry.dims)]
                limit = entry.limit.evaluate(sizes) if entry.limit is not None else 2
                if entry.kind == "float":
                    found[entry.name] = torch.randn(shape, generator=generator)
                else:
                    found[entry.name] = torch.randint(limit, shape, generator=generator)
        return found

    def randomise(self) -> None:
        """Move every tensor that trains away from where it started, whatever it is by now."""
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, tensor in sorted(self.view.parameters().items()):
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(self._starts[name] + 0.2 * noise.to(tensor))


def _loaded(name: str) -> nn.Module:
    from peftlang.models import PRESETS

    model = _varied_parameters(build(name)) if name in PRESETS else load_model(name)
    if getattr(model, "loss_type", "") is None:
        model.loss_type = None  # type: ignore[assignment]
    return model.eval()


def _varied_parameters(model: nn.Module) -> nn.Module:
    """A preset whose biases and gains differ from one another, as those of a trained model do.

    What multiplies a bias has no gradient where all biases are zero.
    """
    generator = torch.Generator().manual_seed(13)
    with torch.no_grad():
        for parameter in model.parameters():
            if bool((parameter == parameter.flatten()[0]).all()):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter))
    return model


def varied(inputs: dict[str, Any], base: nn.Module) -> dict[str, Any]:
    """Different tokens, and pictures that are not empty: equal ones would hide much."""
    generator = torch.Generator().manual_seed(5)
    vocabulary = _vocabulary(base)
    apart = any(v.is_floating_point() for v in inputs.values() if isinstance(v, Tensor))
    found = dict(inputs)
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            continue
        if value.is_floating_point():
            found[name] = torch.randn(value.shape, generator=generator).to(value)
        elif name.endswith("input_ids") and vocabulary > 3 and not apart:
            found[name] = torch.randint(2, vocabulary, value.shape, generator=generator).to(value)
    return found


def _vocabulary(base: nn.Module) -> int:
    """How many tokens a model knows; 0 where it does not say, as one of several towers may not."""
    try:
        embedding = getattr(base, "get_input_embeddings", lambda: None)()
    except NotImplementedError:
        return 0
    return int(getattr(embedding, "num_embeddings", 0))


def output_of(output: Any) -> Tensor:
    """A call's main tensor: the logits, or the first floating-point tensor.

    Raises:
        StopIteration: there is none.
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    values = output.values() if isinstance(output, Mapping) else output
    floating = (v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.dim())
    return next(floating)
