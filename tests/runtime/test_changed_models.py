"""Layers moved, tied or patched after a model was adapted: followed, or refused."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import peftlang
from tests.architectures.by_hand import distance
from tests.runtime.layered import LAYERS, SCALE, WIDTH, Layer, adapted, example, stack

CLOSE = 2e-5
Change = Callable[[Any], None]


def run_parts_twice(model: Any) -> None:
    one = model.layers[1]
    one.forward = lambda x: (
        one.second(torch.relu(one.first(x))) + one.second(torch.relu(one.first(x + 1)))
    )


def run_a_layer_twice(model: Any) -> None:
    layers = model.layers
    model.forward = lambda x: layers[1](layers[1](layers[0](x)))


def delete(model: Any) -> None:
    del model.layers[1]


def delete_the_last(model: Any) -> None:
    del model.layers[-1]


def reverse(model: Any) -> None:
    model.layers = nn.ModuleList(list(model.layers)[::-1])


def swap(model: Any) -> None:
    layers = model.layers
    layers[1], layers[2] = layers[2], layers[1]


def share(model: Any) -> None:
    model.layers[2].first = model.layers[1].first


def repeat(model: Any) -> None:
    model.layers.append(model.layers[0])


def append(model: Any) -> None:
    model.layers.append(stack().layers[2])


FOLLOWED = [
    run_parts_twice,
    run_a_layer_twice,
    delete,
    delete_the_last,
    reverse,
    swap,
    share,
    repeat,
    append,
]


@pytest.mark.parametrize("change", FOLLOWED)
def test_layers_keep_what_is_theirs(change: Change) -> None:
    model, reference = adapted()
    before = model(example())
    for one in (model, reference):
        change(one)
    found = model(example())
    assert distance(found, reference(example())) < CLOSE
    assert distance(found, before) > 100 * CLOSE


def change_of(model: Any, path: str) -> Tensor:
    """What the LoRA adds to a weight."""
    tensors = peftlang.adapters(model)["default"].parameters()
    a, b = (tensors[f"lora.{path}.linear.{name}"].detach() for name in "AB")
    return SCALE * b @ a


def test_tied_weights_have_each_its_own_change() -> None:
    model, reference = adapted()
    base = model.layers[1].first
    model.layers[2].first.weight = base.weight
    value = base.weight + change_of(model, "layers.2.first")
    reference.layers[2].first.weight.data.copy_(value)
    assert distance(model(example()), reference(example())) < CLOSE


def test_untied_weights_have_each_its_own_change() -> None:
    base, reference = stack(), stack()
    base.layers[2].first.weight = base.layers[1].first.weight
    model = peftlang.compile(base, "lora", at="linear", args={"r": 2, "alpha": 2 * SCALE})
    tensors = peftlang.adapters(model)["default"].parameters()
    for value in tensors.values():
        value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    new = stack().layers[3].first.weight.detach()
    model.layers[2].first.weight = nn.Parameter(new.clone())
    for site in peftlang.adapters(model)["default"].sites:
        weight = reference.get_submodule(site.path).weight
        there = model.get_submodule(site.path).weight
        weight.data.copy_(there + change_of(model, site.path))  # type: ignore[operator, union-attr]
    assert distance(model(example()), reference(example())) < CLOSE


@contextmanager
def patched(kind: Any, name: str, value: Any) -> Iterator[None]:
    before = kind.__dict__[name]
    setattr(kind, name, value)
    try:
        yield
    finally:
        setattr(kind, name, before)


def test_a_class_patched_later_is_followed() -> None:
    model, reference = adapted()
    before = model(example())
    with patched(Layer, "forward", lambda self, x: x - self.second(self.first(x))):
        found = model(example())
        assert distance(found, reference(example())) < CLOSE
    assert distance(found, before) > 100 * CLOSE
    assert distance(model(example()), before) == 0


def past(layer: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(linear(x, layer.first.weight, layer.first.bias))
    return x + layer.second(hidden)


@pytest.mark.parametrize("of", [lambda _: Layer, lambda model: type(model.layers[1])])
def test_a_class_patched_to_use_weights_past_their_module_is_refused(of: Any) -> None:
    model, _ = adapted()
    before = model(example())
    with patched(of(model), "forward", past):
        with pytest.raises(peftlang.PeftError) as refused:
            model(example())
        assert refused.value.code == "R501"
    assert distance(model(example()), before) == 0


class Other(nn.Module):
    """A layer with another way to use its weight than its forward, and ways of each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = Projection(WIDTH, WIDTH)
        self.only, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other = False

    def forward(self, x: Tensor) -> Tensor:
        x = x + (self.proj.other(x) if self.other else self.proj(x))
        x = x + self.only(x) if self.training else x - 2 * self.only(x)
        return self.last(x)

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(2, WIDTH)}


class Projection(nn.Linear):
    def other(self, x: Tensor) -> Tensor:
        return linear(x, 2 * self.weight, self.bias)


def other() -> tuple[Any, Any]:
    torch.manual_seed(2)
    base, reference = Other(), Other()
    reference.load_state_dict(base.state_dict())
    model = peftlang.compile(base, "lora", at="linear", args={"r": 2, "alpha": 2 * SCALE})
    for value in peftlang.adapters(model)["default"].parameters().values():
        value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    for path in ("proj", "only"):
        reference.get_parameter(f"{path}.weight").data.add_(change_of(model, path))
    return model, reference


@pytest.mark.parametrize("training", [False, True])
def test_a_branch_of_one_mode_is_adapted(training: bool) -> None:
    model, reference = other()
    found = model.train(training)(example())
    assert distance(found, reference.train(training)(example())) < CLOSE


def test_a_method_that_uses_a_weight_past_forward_is_refused() -> None:
    model, reference = other()
    model.other = True
    with pytest.raises(peftlang.PeftError) as refused:
        model(example())
    assert refused.value.code == "R501"
    model.other = False
    assert distance(model(example()), reference(example())) < CLOSE


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_steps_of_many_lengths_leave_nothing_behind(method: str) -> None:
    model = peftlang.compile(stack(), method, at="linear").train()
    parameters = list(peftlang.adapters(model)["default"].parameters().values())
    optimizer = torch.optim.SGD(parameters, lr=1e-3)

    def step(length: int) -> None:
        optimizer.zero_grad()
        model(torch.randn(2, length, WIDTH)).square().mean().backward()
        optimizer.step()

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    for length in range(1, 41):
        step(length)
    before = objects()
    for number in range(500):
        step(1 + number % 40)
    assert objects() - before < 100


@pytest.mark.parametrize("removed", [False, True])
def test_a_class_made_while_the_program_runs_is_freed(removed: bool) -> None:
    made: Any = type("Made", (Layer,), {})
    base = stack()
    base.layers = nn.ModuleList(made() for _ in range(LAYERS))
    model = peftlang.compile(base, "dora", at="linear")
    model(example())
    assert type(model.layers[0]) is not made
    if removed:
        peftlang.remove(model)
    gone = weakref.ref(made), weakref.ref(type(model.layers[0]))
    del base, model, made
    gc.collect()
    assert [one() for one in gone] == [None, None]
