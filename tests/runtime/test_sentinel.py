"""What was changed after a model was adapted is followed or refused, and never missed."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import peftlang
from tests.architectures.by_hand import distance
from tests.runtime.layered import Layer, adapted, example, stack

CLOSE = 2e-5
Change = Callable[[Any], None]


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner(*args)


def wrap_a_projection(model: Any) -> None:
    model.layers[1].first = Wrapped(model.layers[1].first)


def wrap_a_layer(model: Any) -> None:
    model.layers[1] = Wrapped(model.layers[1])


def copy_a_layer(model: Any) -> None:
    import copy

    model.layers[1] = copy.deepcopy(model.layers[1])


def call_what_was_there(model: Any) -> None:
    module = model.layers[1].first
    before = module.forward
    module.forward = functools.partial(before)


@pytest.mark.parametrize(
    "change", [wrap_a_projection, wrap_a_layer, copy_a_layer, call_what_was_there]
)
def test_followed(change: Change) -> None:
    model, reference = adapted()
    change(model)
    assert distance(model(example()), reference(example())) < CLOSE


def replace_a_projection(model: Any) -> None:
    model.layers[1].first = nn.Linear(16, 24)


def replace_a_layer(model: Any) -> None:
    model.layers[1] = stack().layers[1]


def set_a_class(model: Any) -> None:
    model.layers[1].first.__class__ = nn.Linear


def patch_a_projection(model: Any) -> None:
    module = model.layers[1].first
    module.forward = lambda x: linear(x, module.weight, module.bias)


def patch_a_layer(model: Any) -> None:
    module = model.layers[1]

    def forward(x: Tensor) -> Tensor:
        hidden = torch.relu(linear(x, module.first.weight, module.first.bias))
        return x + module.second(hidden)

    module.forward = forward


@pytest.mark.parametrize(
    "change",
    [replace_a_projection, replace_a_layer, set_a_class, patch_a_projection, patch_a_layer],
)
def test_refused(change: Change) -> None:
    model, _ = adapted()
    change(model)
    with pytest.raises(peftlang.PeftError) as refused:
        model(example())
    assert refused.value.code == "R501"
    with peftlang.disabled(model):
        assert model(example()).isfinite().all()


def test_a_dropped_layer_is_no_miss() -> None:
    model, reference = adapted()
    for one in (model, reference):
        one.layers[1].forward = lambda x: x
    assert distance(model(example()), reference(example())) < CLOSE


@pytest.mark.parametrize("kind", [nn.Linear, Layer])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_later(kind: type, reentrant: bool) -> None:
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as wrappers

    model, reference = adapted()
    way = wrappers.CheckpointImpl["REENTRANT" if reentrant else "NO_REENTRANT"]
    wrapper = functools.partial(wrappers.checkpoint_wrapper, checkpoint_impl=way)
    wrappers.apply_activation_checkpointing(
        model, checkpoint_wrapper_fn=wrapper, check_fn=lambda module: isinstance(module, kind)
    )
    found = model(example().requires_grad_())
    assert distance(found, reference(example())) < CLOSE
    found.square().mean().backward()
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        assert parameter.grad is not None
        assert parameter.grad.any()
