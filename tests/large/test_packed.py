"""Layers without a weight of real numbers, adapted as linear layers; `W` where it is unpacked."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.merging import last_merge
from peftlang.models import build

IDS = torch.arange(14).view(2, 7) + 5


class Kernel(torch.autograd.Function):
    """What a kernel of one's own looks like: nothing of it is an operation of torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(packed, scales)
        return x @ (packed.to(x.dtype) * scales).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        packed, scales = ctx.saved_tensors
        return grads[0] @ (packed.to(grads[0].dtype) * scales), None, None


class Packed(nn.Module):
    """A layer with a kernel of its own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        scales = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (weight / scales).round().to(torch.int8))
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = Kernel.apply(x, self.qweight, self.scales)
        return made


class Readable(Packed):
    """One that says what its weight is."""

    def dequantize(self) -> Tensor:
        return self.qweight.float() * self.scales  # type: ignore[operator]


def four_bits(linear: nn.Linear) -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    sizes = linear.in_features, linear.out_features
    made = bnb.nn.Linear4bit(
        *sizes, bias=False, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=False
    )
    made.load_state_dict(linear.state_dict())
    return made.to("cpu")


def eight_bits(linear: nn.Linear) -> nn.Module:
    bnb = pytest.importorskip("bitsandbytes")
    sizes = linear.in_features, linear.out_features
    made = bnb.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
    made.load_state_dict(linear.state_dict())
    return made.to("cpu")


def half_quadratic(linear: nn.Linear) -> nn.Module:
    pytest.importorskip("hqq")
    core = importlib.import_module("hqq.core.quantize")
    config = core.BaseQuantizeConfig(nbits=4, group_size=32)
    return core.HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")


def torchao(kind: str) -> Any:
    def quantised(linear: nn.Linear) -> nn.Module:
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(linear, getattr(quantization, kind)())
        return linear

    return quantised


INT8, FLOAT8 = torchao("Int8WeightOnlyConfig"), torchao("Float8WeightOnlyConfig")
NEED_W = [Readable, four_bits, eight_bits, half_quadratic, INT8, FLOAT8]


def quantised(make: Any) -> Any:
    """A Llama whose layers' projections are all ``make``'s."""
    model = build("tiny-llama")
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and "layers" in f"{path}.{name}":
                setattr(module, name, make(child))
    return model


def moved(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in peftlang.adapters(model)["default"].parameters().values():
            tensor.add_(torch.randn(tensor.shape) * 0.1)
    return model


def by_hand(model: Any) -> dict[str, Tensor]:
    """What LoRA adds at each site, from its tensors alone."""
    found = peftlang.adapters(model)["default"]
    plan, tensors = found.plan, found.tensors()
    own = plan.placements[0].tensors
    pairs = {plan.sites[s].path: (tensors[g["A"]], tensors[g["B"]]) for s, g in own.items()}
    return {path: 16 / 2 * b @ a for path, (a, b) in pairs.items()}


def seen(model: Any, path: str) -> tuple[Tensor, Tensor]:
    kept: list[Any] = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, x, h: kept.extend((x[0], h)))
    model(input_ids=IDS)
    hook.remove()
    return kept[0], kept[1]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [Packed, *NEED_W])
def test_lora_is_what_it_is_anywhere(make: Any) -> None:
    base = quantised(make)
    before = base(input_ids=IDS).logits
    model = peftlang.compile(base, "lora", r=2)
    assert torch.equal(model(input_ids=IDS).logits, before)
    moved(model)
    path = "model.layers.1.self_attn.q_proj"
    x, h = seen(model, path)
    with peftlang.disabled(model):
        plain = model.get_submodule(path)(x)
    assert torch.allclose(h - plain, x @ by_hand(model)[path].T, atol=1e-5)
    model.train()(input_ids=IDS).logits.square().mean().backward()
    tensors = peftlang.adapters(model)["default"].parameters().values()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in tensors)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", NEED_W)
@pytest.mark.parametrize("spec", ["dora", "pissa"])
def test_methods_that_need_the_weight(make: Any, spec: str) -> None:
    base = quantised(make)
    before = base(input_ids=IDS).logits
    model = peftlang.compile(base, spec, r=2)
    close = (before - model(input_ids=IDS).logits).abs().max()
    assert close < 1e-2 * before.abs().max()
    loss = moved(model)(input_ids=IDS).logits.square().mean()
    loss.backward()
    tensors = peftlang.adapters(model)["default"].parameters().values()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in tensors)


@pytest.mark.parametrize("spec", ["dora", "pissa", "oft"])
def test_without_a_weight_they_are_refused(spec: str) -> None:
    model = quantised(Packed)
    with pytest.raises(peftlang.PeftError, match="R531"):
        peftlang.compile(model, spec)
    assert not peftlang.adapters(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_adapter_has_the_type_in_which_is_computed(dtype: torch.dtype) -> None:
    model = quantised(Packed).to(dtype)
    peftlang.compile(model, "lora", r=2)
    tensors = peftlang.adapters(model)["default"].parameters().values()
    assert {tensor.dtype for tensor in tensors} == {dtype}
    assert model(input_ids=IDS).logits.dtype is dtype


@pytest.mark.parametrize("make", [Packed, Readable])
def test_it_goes_to_the_base_in_full_precision(make: Any, tmp_path: Path) -> None:
    model = moved(peftlang.compile(quantised(make), "lora", r=2))
    peftlang.save(model, tmp_path / "saved")
    base = peftlang.load(build("tiny-llama"), tmp_path / "saved")
    assert by_hand(base).keys() == by_hand(model).keys()
    wanted = by_hand(model)
    assert all(torch.equal(change, wanted[path]) for path, change in by_hand(base).items())
    peftlang.merge(base)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [Packed, *NEED_W])
def test_merge_leaves_a_quantised_base_alone(make: Any) -> None:
    model = moved(peftlang.compile(quantised(make), "lora", r=2))
    before = model(input_ids=IDS).logits
    with pytest.raises(peftlang.PeftError, match="R531" if make is Packed else "R535"):
        peftlang.merge(model)
    with pytest.raises(peftlang.PeftError, match="R531" if make is Packed else "R535"):
        peftlang.merge(model, requantise=True, keep=True)
    assert torch.equal(model(input_ids=IDS).logits, before)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def by_running(model: Any, path: str) -> Tensor:
    """A layer's weight, from what it makes of unit vectors."""
    with torch.no_grad():
        made: Tensor = model.get_submodule(path)(torch.eye(32)).T
    return made


@pytest.mark.parametrize("make", [four_bits, eight_bits, INT8])
def test_merge_quantises_anew_when_asked(make: Any) -> None:
    path = "model.layers.0.self_attn.q_proj"
    wanted = by_running(quantised(make), path)
    model = moved(peftlang.compile(quantised(make), "lora", r=2))
    wanted = wanted + by_hand(model)[path].detach()
    peftlang.merge(model, requantise=True)
    assert not peftlang.adapters(model)
    error = (by_running(model, path) - wanted).abs().max()
    assert 0 < error < 0.5 * wanted.abs().max()
    stated = last_merge(model).rounding[f"{path}.weight"]
    assert stated == pytest.approx(float(error), rel=0.2)
    with pytest.raises(peftlang.PeftError, match="R514"):
        peftlang.unmerge(model)
