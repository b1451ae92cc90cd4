"""What others compile around an adapted model is the adapted model: never the base alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo as dynamo
from torch import Tensor, nn

import peftlang
from tests.architectures.by_hand import distance
from tests.runtime.layered import adapted, example

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

CLOSE = 2e-5
Break = Callable[[Tensor], None]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def check(model: Any, reference: Any, x: Tensor | None = None) -> None:
    x = example() if x is None else x
    assert distance(model(x), reference(x)) < CLOSE


def compiled(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, backend="eager", **options)


PROCESS = """
import torch
from tests.architectures.by_hand import distance
from tests.runtime.layered import adapted, example
model, reference = adapted()
assert distance(model(example()), reference(example())) < 2e-5
assert distance(torch.compile(model)(example()), reference(example())) < 2e-5
"""


def test_a_process_without_dynamo() -> None:
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    subprocess.run([sys.executable, "-c", PROCESS], env=environment, check=True)


@pytest.mark.parametrize("before", [False, True], ids=["from the start", "later"])
@pytest.mark.parametrize("how", ["environment", "config", "stance"])
def test_dynamo_is_switched_off(how: str, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = adapted()
    outer = compiled(model)
    if before:
        check(outer, reference)
    with monkeypatch.context() as patch:
        if how == "environment":
            patch.setenv("TORCHDYNAMO_DISABLE", "1")
        stance = "force_eager" if how == "stance" else "default"
        with dynamo.config.patch(disable=how == "config"), torch.compiler.set_stance(stance):
            check(outer, reference)
            with peftlang.disabled(model):
                assert torch.equal(outer(example()), model(example()))
    check(outer, reference)


def test_limits_of_recompilation() -> None:
    """Beyond them Dynamo runs what it was given as it is; that is the adapted model."""
    model, reference = adapted()
    outer = compiled(model)
    with dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=1):
        for shape in ((3, 16), (2, 3, 16), (1, 2, 3, 16)):
            check(outer, reference, torch.randn(shape))
            check(outer, reference, torch.randn(shape, requires_grad=True))


def test_a_stance_against_recompilation() -> None:
    model, reference = adapted()
    outer = compiled(model)
    check(outer, reference)
    with torch.compiler.set_stance("eager_on_recompile"):
        check(outer, reference, example()[None])
    with torch.compiler.set_stance("fail_on_recompile"):
        check(outer, reference)
        with pytest.raises(RuntimeError):
            outer(example()[None])


def broken(_: Tensor) -> None:
    torch._dynamo.graph_break()


def printed(x: Tensor) -> None:
    float(x.detach().sum())


@torch.compiler.disable
def hidden(_: Tensor) -> None:
    pass


def looping(x: Tensor) -> None:
    for _ in range(2):
        if x.detach().sum() > 1e9:
            raise AssertionError


BREAKS = [broken, printed, hidden, looping]


@pytest.mark.parametrize("obstacle", BREAKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("inside", [False, True], ids=["between layers", "inside each"])
def test_graph_breaks(obstacle: Break, inside: bool) -> None:
    model, reference = adapted()
    for owner in (model, *model.layers) if inside else (model,):
        owner.between = obstacle
    outer = compiled(model)
    check(outer, reference)
    check(outer, reference, example(7))
    outer(example()).square().mean().backward()
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize("obstacle", [None, *BREAKS], ids=lambda f: getattr(f, "__name__", "none"))
def test_layers_with_one_code_keep_their_own_adapters(obstacle: Break | None) -> None:
    model, reference = adapted()
    for layer in model.layers:
        layer.between = obstacle or layer.between
    for index in (0, 3, 1, 2, 3, 0):
        check(compiled(model.layers[index]), reference.layers[index])
        check(compiled(model.layers[index].first), reference.layers[index].first)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph(backend: str) -> None:
    model, reference = adapted()
    outer = torch.compile(model, backend=backend, fullgraph=True)
    for rows in (3, 5):
        check(outer, reference, example(rows))
    step = torch.compile(lambda x: model(x).square().mean(), backend=backend, fullgraph=True)
    assert distance(step(example()), reference(example()).square().mean()) < CLOSE


def test_what_acts_is_looked_at_in_each_call() -> None:
    """What Dynamo made of one set of adapters is not used for another."""
    model, reference = adapted()
    plain = model.layers[0].first.weight
    outer = compiled(model, fullgraph=True)
    check(outer, reference)
    with peftlang.disabled(model):
        base = model(example())
        assert torch.equal(outer(example()), base)
        assert not torch.equal(base, reference(example()))
    check(outer, reference)
    peftlang.compile(model, "ia3", at="linear", adapter_name="other")
    for parameter in peftlang.adapters(model)["other"].parameters().values():
        parameter.data.mul_(0.5)
    both = model(example())
    assert torch.equal(outer(example()), both)
    with peftlang.active(model, "default"):
        check(outer, reference)
    peftlang.set_active(model, "other")
    assert torch.equal(outer(example()), model(example()))
    assert not torch.equal(outer(example()), both)
    peftlang.remove(model, "default")
    assert torch.equal(outer(example()), model(example()))
    peftlang.remove(model, "other")
    assert torch.equal(outer(example()), base)
    assert model.layers[0].first.weight is plain


def test_a_call_inside_what_torch_leaves_alone() -> None:
    model, reference = adapted()

    @torch.compiler.disable
    def call(x: Tensor) -> Tensor:
        return model(x)  # type: ignore[no-any-return]

    assert distance(call(example()), reference(example())) < CLOSE
    outer = torch.compile(lambda x: call(x) + 1, backend="eager")
    assert distance(outer(example()), reference(example()) + 1) < CLOSE


class Loop(nn.Module):
    """Its weight is its own, in a loop that Dynamo cannot record once a condition is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(16))
        self.conditional = False

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = nn.functional.linear(x, self.weight)
            if self.conditional and doubled(x).sum() > 0:
                x = x + 1
        return x


def doubled(x: Tensor) -> Tensor:
    return 2 * x


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Loop()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 2  # type: ignore[no-any-return]

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(2, 16)}


def outer(spec: str) -> Outer:
    model = Outer().eval()
    peftlang.compile(model, spec, **({"at": "linear"} if spec == "lora" else {}))
    for name, value in peftlang.adapters(model)["default"].parameters().items():
        value.data.add_(
            torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name)))
        )
    return model


def test_a_module_that_goes_another_way_than_when_it_was_adapted() -> None:
    """Between its operations the adapter acts; other operations may mean anything."""
    model = outer("lora")
    wanted = model(example())
    model.inner.conditional = True
    with pytest.raises(peftlang.PeftError, match="R501") as refused:
        model(example())
    assert "`inner` computes otherwise" in str(refused.value)
    model.inner.conditional = False
    assert torch.equal(model(example()), wanted)


@pytest.mark.parametrize(
    ("spec", "conditional"),
    [
        ("lora", False),
        ("adapter m { train weight }", False),
        ("adapter m { train weight }", True),
    ],
)
def test_a_frame_that_dynamo_skips(spec: str, conditional: bool) -> None:
    model = outer(spec)
    model.inner.conditional = conditional
    wanted = model(example())
    with peftlang.disabled(model):
        assert not torch.equal(model(example()), wanted)
    for module, found in ((model, wanted), (model.inner, wanted / 2)) * 2:
        assert distance(compiled(module)(example()), found) < CLOSE
