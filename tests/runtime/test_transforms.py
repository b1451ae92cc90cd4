"""`torch.func`, dispatch modes and tracers see the adapted model, also in the very first call."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import peftlang
from tests.architectures.by_hand import distance
from tests.runtime.acting_models import CASES, adapted, base, inputs, logits, positional, tensors_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # vmap runs fused attention once for each example, which is right and slow.
    pytest.mark.filterwarnings("ignore:.*batching rule:UserWarning"),
]
CLOSE = 2e-5
every = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    """What adapted models answer, as they are called plainly."""
    return {case: logits(adapted(case), inputs(case)).detach() for case in CASES}


def own(model: Any) -> dict[str, Tensor]:
    """The adapter's parameters."""
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def called(
    model: Any, parameters: dict[str, Tensor], case: str, given: dict[str, Any] | None = None
) -> Tensor:
    given = inputs(case) if given is None else given
    found: Tensor = torch.func.functional_call(model, parameters, (), given).logits
    return found


@every
def test_functional_call(case: str, wanted: dict[str, Tensor]) -> None:
    model = adapted(case)
    halved = {name: value / 2 for name, value in own(model).items()}
    found = called(model, halved, case)
    assert distance(logits(model, inputs(case)), wanted[case]) < CLOSE
    model.load_state_dict(halved, strict=False)
    assert distance(found, logits(model, inputs(case))) < CLOSE
    assert distance(found, wanted[case]) > 0.001
    doubled = {name: value.detach() * 2 for name, value in base(case).named_parameters()}
    by_base = torch.func.functional_call(base(case), doubled, (), inputs(case))
    with peftlang.disabled(model):
        assert torch.equal(called(model, doubled, case), by_base.logits)


@every
def test_grad(case: str, wanted: dict[str, Tensor]) -> None:
    model = adapted(case)
    found = torch.func.grad(lambda p: called(model, p, case).square().mean())(own(model))
    logits(model, inputs(case)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert distance(found[name], parameter.grad) < 50 * CLOSE
    assert distance(logits(model, inputs(case)), wanted[case]) < CLOSE


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"weight"}))
def test_jvp(case: str) -> None:
    """But for DoRA, whose norm is a constant to its derivative."""
    model = adapted(case).double()
    parameters = own(model)
    ones = {name: torch.ones_like(value) for name, value in parameters.items()}

    def moved(step: float) -> Tensor:
        return called(model, {n: v + step for n, v in parameters.items()}, case).detach()

    with sdpa_kernel(SDPBackend.MATH):
        found: Any = torch.func.jvp(lambda p: called(model, p, case), (parameters,), (ones,))
        value, slope = found
        assert distance(value, moved(0)) < 1e-9
        assert distance(slope, (moved(1e-5) - moved(-1e-5)) / 2e-5) < 0.02


@every
def test_vmap_over_adapters(case: str) -> None:
    model = adapted(case)
    parameters = own(model)
    stacked = {name: torch.stack([value, value / 2]) for name, value in parameters.items()}
    given = inputs(case)
    found = torch.func.vmap(lambda p: called(model, p, case, given))(stacked)
    for index, scale in enumerate((1, 0.5)):
        alone = called(model, {n: scale * v for n, v in parameters.items()}, case)
        assert distance(found[index], alone) < CLOSE


@every
def test_vmap_over_inputs(case: str) -> None:
    """Without a mask: of one, `transformers` reads the values."""
    model, given = adapted(case), inputs(case)
    given.pop("attention_mask", None)
    options = {name: v for name, v in given.items() if not isinstance(v, Tensor)}
    tensors = {name: v for name, v in given.items() if isinstance(v, Tensor)}
    stacked = {name: torch.stack([v, v.flip(0)]) for name, v in tensors.items()}
    found = torch.func.vmap(lambda t: logits(model, {**t, **options}))(stacked)
    for index, rows in enumerate((tensors, {n: v.flip(0) for n, v in tensors.items()})):
        assert distance(found[index], logits(model, {**rows, **options})) < CLOSE


class Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@every
def test_modes_that_count(case: str, wanted: dict[str, Tensor]) -> None:
    """In the first call, too, they count what the model computes and not what we do to make code.

    Nothing that a mode sees at the first call is missing, or more, at the second.
    """
    model = adapted(case)
    counts = []
    for _ in range(3):
        with FlopCounterMode(display=False) as flops, Counted() as counted:
            assert distance(logits(model, inputs(case)), wanted[case]) < CLOSE
        counts.append((flops.get_total_flops(), counted.count))
    assert counts[0] == counts[1] == counts[2]
    with peftlang.disabled(model), FlopCounterMode(display=False) as flops:
        logits(model, inputs(case))
    assert 0 < flops.get_total_flops() <= counts[0][0]


@every
def test_stand_ins(case: str, wanted: dict[str, Tensor]) -> None:
    """A first call without values, of a model without values, then one with them."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    model = adapted(case)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        given = {
            name: fake.from_tensor(v) if isinstance(v, Tensor) else v
            for name, v in inputs(case).items()
        }
        found = logits(model, given)
    assert isinstance(found, FakeTensor)
    assert found.shape == wanted[case].shape
    assert distance(logits(model, inputs(case)), wanted[case]) < CLOSE


def traced(case: str, model: Any) -> Callable[..., Any]:
    module, tensors = positional(case, model)
    made = torch.jit.trace(module, tensors, check_trace=False)
    stored = io.BytesIO()
    torch.jit.save(made, stored)
    stored.seek(0)
    return torch.jit.load(stored)  # type: ignore[no-any-return]


@every
def test_jit_trace(case: str, wanted: dict[str, Tensor]) -> None:
    model = adapted(case)
    found = traced(case, model)(*tensors_of(inputs(case)))
    assert distance(found, wanted[case]) < CLOSE
    assert distance(logits(model, inputs(case)), wanted[case]) < CLOSE


@pytest.mark.parametrize("kind", ["real", "fake"])
@pytest.mark.parametrize("case", ["inside", "bias"])
def test_make_fx(case: str, kind: str) -> None:
    """Of models whose own code reads no values of tensors while it is traced."""
    model, given = adapted(case), inputs(case)
    given.pop("attention_mask")
    module, tensors = positional(case, model)
    module.names.remove("attention_mask")
    tensors = tensors_of(given)
    made = make_fx(module, tracing_mode=kind, _allow_non_fake_inputs=True)(*tensors)
    right = logits(model, given)
    assert distance(made(*tensors), right) < CLOSE
    with peftlang.disabled(model):
        assert distance(right, logits(model, given)) > 0.01
