"""Where TorchDynamo gives up, a call is right or says what happened: never the base alone."""

import functools
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


def fails(code: str, call: Callable[[], Any]) -> peftlang.PeftError:
    with pytest.raises(peftlang.PeftError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.help
    return caught.value


def test_the_recompilation_limit_is_an_error_every_time() -> None:
    model, reference = adapted(recompile_limit=1)
    check(model, reference)
    for _ in range(3):
        error = fails("R507", lambda: model(example().double().float()[None]))
        assert "recompile_limit" in str(error.help)
    check(model, reference)


def test_the_users_own_limits_do_not_count() -> None:
    model, reference = adapted()
    with dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=1):
        for shape in ((3, 16), (2, 3, 16), (1, 2, 3, 16)):
            check(model, reference, torch.randn(shape))


@pytest.mark.parametrize("compiled_before", [False, True])
@pytest.mark.parametrize("how", ["environment", "config", "stance"])
def test_switched_off(how: str, compiled_before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = adapted()
    if compiled_before:
        check(model, reference)
    with monkeypatch.context() as patch:
        if how == "environment":
            patch.setenv("TORCHDYNAMO_DISABLE", "1")
        stance = "force_eager" if how == "stance" else "default"
        with dynamo.config.patch(disable=how == "config"), torch.compiler.set_stance(stance):
            right_or_error(model, reference)
            right_or_error(model.layers[2].second, reference.layers[2].second, torch.ones(2, 24))
            with peftlang.disabled(model):
                assert model(example()).shape == (3, 16)
    check(model, reference)


def right_or_error(model: Any, reference: Any, x: Tensor | None = None) -> None:
    caught = None
    try:
        check(model, reference, x)
    except peftlang.PeftError as error:
        caught = error
    if caught is not None:
        assert caught.code == "R501"
        assert "TORCHDYNAMO_DISABLE" in str(caught.help)


@pytest.mark.parametrize("stance", ["eager_on_recompile", "fail_on_recompile"])
def test_a_stance_against_recompilation(stance: str) -> None:
    model, reference = adapted()
    check(model, reference)
    with torch.compiler.set_stance(stance):
        check(model, reference)
        with pytest.raises((peftlang.PeftError, RuntimeError)):
            model(example()[None])


PROCESS = """
import torch, peftlang
from tests.architectures.by_hand import distance
from tests.runtime.layered import adapted, example
try:
    model, reference = adapted()
    assert torch.equal(model(example()), reference(example()))
except peftlang.PeftError as error:
    print(error.code, error)
"""


def test_a_process_without_dynamo() -> None:
    environment = os.environ | {"TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], env=environment, text=True, capture_output=True, check=True
    )
    assert done.stdout.startswith("C706")
    assert "TORCHDYNAMO_DISABLE" in done.stdout


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
    check(model, reference)
    check(model, reference, example(7))
    model(example()).square().mean().backward()
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize("obstacle", [None, *BREAKS], ids=lambda f: getattr(f, "__name__", "none"))
def test_layers_with_one_code_keep_their_own_adapters(obstacle: Break | None) -> None:
    model, reference = adapted()
    if obstacle is not None:
        for layer in model.layers:
            layer.between = obstacle
    for index in (0, 3, 1, 2, 3, 0):
        check(model.layers[index], reference.layers[index])
        check(model.layers[index].first, reference.layers[index].first)


def test_errors_that_the_user_suppresses_are_not() -> None:
    model, reference = adapted(recompile_limit=1)
    with dynamo.config.patch(suppress_errors=True):
        check(model, reference)
        fails("R507", lambda: model(example()[None]))


@pytest.mark.parametrize("obstacle", [None, broken], ids=["whole", "broken"])
def test_the_users_own_compile_around_it(obstacle: Break | None) -> None:
    model, reference = adapted()
    if obstacle is not None:
        model.between = obstacle
    outer = torch.compile(model, backend="eager")
    for rows in (3, 5):
        check(outer, reference, example(rows))
    step = torch.compile(lambda x: model(x).square().mean(), backend="aot_eager")
    assert distance(step(example()), reference(example()).square().mean()) < CLOSE


def test_the_users_own_compile_of_one_graph_says_what_to_do() -> None:
    model, _ = adapted()
    outer = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises((peftlang.PeftError, dynamo.exc.Unsupported)) as caught:
        outer(example())
    assert "backend='inductor'" in str(caught.value)


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


@pytest.mark.parametrize("spec", ["lora", "adapter m { train weight }"])
def test_a_frame_that_dynamo_skips(spec: str) -> None:
    model = Outer().eval()
    peftlang.compile(model, spec, **({"at": "linear"} if spec == "lora" else {}))
    model(example())
    model.inner.conditional = True
    for module in (model, model.inner) * 2:
        error = fails("R501", functools.partial(module, example()))
        assert "graph_breaks" in str(error.help)
    with peftlang.disabled(model):
        assert torch.equal(model(-example().abs()), -2 * example().abs())
    model.inner.conditional = False
    torch.compiler.reset()
    model(example())
