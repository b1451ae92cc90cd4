"""Weights that accelerate keeps elsewhere between calls: the adapted model is exact even so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor

import peftlang
from peftlang.models import build

IDS = torch.arange(14).view(2, 7) + 5
CPU = torch.device("cpu")


def on_cpu(model: Any, _: Path) -> None:
    accelerate.cpu_offload(model, execution_device=CPU)


def on_disk(model: Any, folder: Path) -> None:
    accelerate.disk_offload(model, str(folder / "weights"), execution_device=CPU)


def by_map(model: Any, folder: Path) -> None:
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "lm_head"), "cpu")
    places |= dict.fromkeys(("model.layers", "model.norm"), "disk")
    options = {"offload_dir": str(folder / "weights"), "force_hooks": True}
    accelerate.dispatch_model(model, places, main_device="cpu", **options)


WAYS = [on_cpu, on_disk, by_map]
Way = Callable[[Any, Path], None]


def tensors(model: Any) -> dict[str, Any]:
    return peftlang.adapters(model)["default"].parameters()


def adapted(model: Any, spec: str) -> Any:
    peftlang.compile(model, spec, r=2)
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in tensors(model).values():
            tensor.add_(torch.randn(tensor.shape) * 0.1)
    return model


def expected(spec: str) -> tuple[Tensor, dict[str, Tensor]]:
    model = adapted(build("tiny-llama"), spec)
    logits = model(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits.detach(), {name: tensor.grad for name, tensor in tensors(model).items()}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("spec", ["lora", "dora", "pissa"])
def test_offloaded_and_then_adapted(way: Way, spec: str, tmp_path: Path) -> None:
    model: Any = build("tiny-llama")
    way(model, tmp_path)
    adapted(model, spec)
    logits, gradients = expected(spec)
    found = model(input_ids=IDS).logits
    found.square().mean().backward()
    assert torch.equal(found, logits)
    for name, tensor in tensors(model).items():
        assert tensor.device == CPU
        assert torch.equal(tensor.grad, gradients[name])


@pytest.mark.parametrize("way", WAYS)
def test_adapted_and_then_offloaded(way: Way, tmp_path: Path) -> None:
    model = adapted(build("tiny-llama"), "lora")
    way(model, tmp_path)
    logits, _ = expected("lora")
    found = model(input_ids=IDS).logits
    assert torch.equal(found, logits)
    with pytest.raises(peftlang.PeftError, match="R533"):
        found.square().mean().backward()
    peftlang.save(model, tmp_path / "saved")
    loaded = peftlang.load(build("tiny-llama"), tmp_path / "saved")
    assert torch.equal(loaded(input_ids=IDS).logits, logits)


def test_merge_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    model: Any = build("tiny-llama")
    on_disk(model, tmp_path)
    adapted(model, "lora")
    before = model(input_ids=IDS).logits
    with pytest.raises(peftlang.PeftError, match="R536"):
        peftlang.merge(model)
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_meta_tensors_have_to_be_made() -> None:
    with torch.device("meta"):
        model = build("tiny-llama")
    peftlang.compile(model, "lora", r=2)
    with pytest.raises(peftlang.PeftError, match="R532"):
        peftlang.initialise(model)
    model.to_empty(device="cpu")
    whole: Any = build("tiny-llama")
    model.load_state_dict(whole.state_dict(), strict=False)
    for name, buffer in whole.named_buffers():
        model.get_buffer(name).copy_(buffer)
    with pytest.raises(peftlang.PeftError, match="R532"):
        model(input_ids=IDS)
    peftlang.initialise(model)
    peftlang.compile(whole, "lora", r=2)
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensors(model)[name], tensor)
    assert torch.equal(model(input_ids=IDS).logits, whole(input_ids=IDS).logits)
