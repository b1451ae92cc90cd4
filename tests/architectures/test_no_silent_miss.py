"""A LoRA on `attn.q, attn.v` acts in every model, in every mode, through every door.

`attn.q` and `attn.v` are self-attention's projections, on each side of an encoder-decoder and in
each tower; cross-attention has the names `cross_attn.q` and `cross_attn.v` of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import PRESETS, build
from tests.architectures.by_hand import (
    DECODERS,
    LAYERS,
    PLACES,
    TWO_SIDED,
    adapted,
    batch,
    distance,
    gradients_by_hand,
    matrices,
    merged,
    output_of,
)

CLOSE = 2e-5
STACKS = {"tiny-t5": 2, "tiny-bart": 2, "tiny-whisper": 2, "tiny-clip": 2}
SPELT_OUT = (
    *("tiny-llama", "tiny-gpt2", "tiny-gemma2", "tiny-bert", "tiny-deberta-v2", "tiny-t5"),
    *("tiny-vit", "tiny-clip"),
)
"""Run with eager attention too; that it has the same positions is tested of every preset."""

KINDS = [(p, "sdpa") for p in PLACES] + [(p, "eager") for p in SPELT_OUT]


def only(*presets: str) -> pytest.MarkDecorator:
    """For these presets, with sdpa attention."""
    kinds = [(preset, "sdpa") for preset in presets]
    return pytest.mark.parametrize("made", kinds, indirect=True, ids="-".join)


@dataclass
class Subject:
    preset: str
    eager: bool
    model: nn.Module
    reference: nn.Module

    def outputs(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """What the adapted model and the reference answer, with the same dropout."""
        found = []
        for model in (self.model, self.reference):
            torch.manual_seed(11)
            found.append(output_of(model(**inputs)))
        return found[0], found[1]

    def train(self, training: bool) -> None:
        for model in (self.model, self.reference):
            model.train(training)
            if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
                # Dropout draws in another order when this attention is written out.
                for module in model.modules():
                    if isinstance(module, nn.MultiheadAttention):
                        module.dropout = 0.0
                    elif isinstance(module, nn.Dropout):
                        module.p = 0.0


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def made(request: pytest.FixtureRequest) -> Subject:
    preset, attention = request.param
    model = adapted(preset, attention)
    return Subject(preset, attention == "eager", model, merged(model, preset, attention))


@pytest.fixture
def on(made: Subject) -> Iterator[Subject]:
    made.train(training=False)
    yield made
    made.model.zero_grad()
    made.reference.zero_grad()


def test_every_preset_is_covered() -> None:
    assert set(PLACES) | {"tiny-mamba"} == set(PRESETS)


def test_has_two_sites_in_every_layer(on: Subject) -> None:
    sites = peftlang.adapters(on.model)["default"].sites
    assert len(sites) == 2 * LAYERS * STACKS.get(on.preset, 1)
    assert {(s.role, s.weight) for s in sites} == {(p.role, p.weight) for p in PLACES[on.preset]}


@pytest.mark.parametrize("preset", TWO_SIDED)
def test_cross_attention_is_asked_for_by_name(preset: str) -> None:
    model = peftlang.compile(build(preset), "lora", at="cross_attn.q, cross_attn.v")
    sites = peftlang.adapters(model)["default"].sites
    assert [s.role for s in sites] == ["cross_attn.q", "cross_attn.v"] * LAYERS
    assert all(s.side == "decoder" for s in sites)


def test_a_model_without_attention_says_so() -> None:
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.compile(build("tiny-mamba"), "lora")
    assert error.value.code == "S407"


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_forward_and_gradients(on: Subject, training: bool) -> None:
    if on.eager and not training:
        pytest.skip("the same rewriting as in training")
    on.train(training)
    found, wanted = on.outputs(**batch(on.preset))
    assert distance(found, wanted) < CLOSE
    found.square().mean().backward()
    wanted.square().mean().backward()
    for place in PLACES[on.preset]:
        by_hand = gradients_by_hand(on.reference, on.model, place)
        for parameter, gradient in zip(matrices(on.model, place), by_hand, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.any()
            assert distance(parameter.grad, gradient) < 50 * CLOSE


@only(*PLACES)
def test_other_shapes(on: Subject) -> None:
    """They are recorded anew."""
    found, wanted = on.outputs(**batch(on.preset, rows=3, tokens=9))
    assert distance(found, wanted) < CLOSE


@only(*DECODERS, *TWO_SIDED)
def test_without_a_cache(on: Subject) -> None:
    """All other tests of these models run with one, as their configurations say."""
    assert on.model.config.use_cache  # type: ignore[union-attr]
    found, wanted = on.outputs(**batch(on.preset), use_cache=False)
    assert distance(found, wanted) < CLOSE


@only("tiny-llama", "tiny-bert", "tiny-t5", "tiny-vit")
def test_after_dynamo_forgot_everything(on: Subject) -> None:
    torch.compiler.reset()
    found, wanted = on.outputs(**batch(on.preset))
    assert distance(found, wanted) < CLOSE


@only("tiny-llama", "tiny-gemma2")
def test_one_token_after_a_cache(on: Subject) -> None:
    ids = batch(on.preset, tokens=8)["input_ids"]
    for model in (on.model, on.reference):
        with torch.no_grad():
            before = model(input_ids=ids[:, :-1], use_cache=True)
            after = model(input_ids=ids[:, -1:], past_key_values=before.past_key_values)
            whole = model(input_ids=ids, use_cache=False)
        assert distance(after.logits[:, 0], whole.logits[:, -1]) < CLOSE


@only("tiny-llama", "tiny-gpt2", "tiny-bert", "tiny-t5", "tiny-vit", "tiny-clip", "tiny-mixtral")
def test_inner_doors(on: Subject) -> None:
    """Every module on the way to the last site, called by itself."""
    inputs = batch(on.preset) | ({"use_cache": False} if on.preset in DECODERS else {})
    for path, (args, kwargs) in _calls(on.reference, PLACES[on.preset][-1].weight, inputs):
        with torch.no_grad():
            found = output_of(on.model.get_submodule(path)(*args, **kwargs))
            wanted = output_of(on.reference.get_submodule(path)(*args, **kwargs))
            with peftlang.disabled(on.model):
                base = output_of(on.model.get_submodule(path)(*args, **kwargs))
        assert distance(found, wanted) < CLOSE, path
        assert not torch.equal(found, base), path


def _calls(reference: nn.Module, weight: str, inputs: dict[str, Any]) -> list[tuple[str, Any]]:
    """Arguments with which the modules around a weight are called, by path."""
    parts = weight.split(".")[:-1]
    paths = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    found: dict[str, Any] = {}
    hooks = []
    for path in paths:

        def keep(_module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
            found[path] = args, kwargs

        module = reference.get_submodule(path)
        hooks.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    with torch.no_grad():
        reference(**inputs)
    for hook in hooks:
        hook.remove()
    assert len(found) >= len(parts) - 2
    return list(found.items())


@pytest.mark.parametrize("preset", TWO_SIDED)
def test_the_encoder_alone(preset: str) -> None:
    model = adapted(preset)
    reference = merged(model, preset)
    inputs = {k: v for k, v in batch(preset).items() if not k.startswith("decoder")}
    found, wanted = (output_of(m.get_encoder()(**inputs)) for m in (model, reference))
    assert distance(found, wanted) < CLOSE


@pytest.mark.parametrize(
    "preset", ["tiny-llama", "tiny-gpt2", "tiny-t5", "tiny-vit", "tiny-mixtral"]
)
def test_half_precision_is_finite_and_reaches_every_parameter(preset: str) -> None:
    model = adapted(preset, dtype=torch.bfloat16)
    inputs = {
        k: v.bfloat16() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in batch(preset).items()
    }
    found = output_of(model(**inputs))
    assert found.dtype is torch.bfloat16
    assert found.isfinite().all()
    found.float().square().mean().backward()
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        assert parameter.grad is not None
        assert parameter.grad.any()
        assert parameter.grad.isfinite().all()
