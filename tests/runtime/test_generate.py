"""`generate` of an adapted model gives the tokens that the merged model gives."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from peftlang.runtime.parts import Made
from tests.architectures.by_hand import adapted, batch, merged

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

PRESETS = ("tiny-llama", "tiny-gpt2", "tiny-t5", "tiny-bart", "tiny-whisper")
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.5},
    "static": {"do_sample": False, "cache_implementation": "static"},
    "no cache": {"do_sample": False, "use_cache": False},
}


@pytest.fixture(scope="module", params=PRESETS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, Any]]:
    model = adapted(request.param)
    reference = merged(model, request.param).requires_grad_(requires_grad=False)
    for one in (model, reference):
        one.generation_config.pad_token_id = 0  # type: ignore[union-attr]
        # Random weights stop at random; a fixed length compares more.
        one.generation_config.eos_token_id = None  # type: ignore[union-attr]
        one.generation_config.forced_eos_token_id = None  # type: ignore[union-attr]
        # Tied embeddings answer with what they read, whatever is between them.
        one.generation_config.no_repeat_ngram_size = 1  # type: ignore[union-attr]
    yield request.param, model, reference
    torch.compiler.reset()


def inputs(preset: str) -> dict[str, Tensor]:
    """Two rows, the second padded on the side on which the model wants it."""
    made = {k: v for k, v in batch(preset).items() if not k.startswith("decoder")}
    if preset in {"tiny-llama", "tiny-gpt2"}:
        made["attention_mask"] = made["attention_mask"].flip(1)
    return made


def tokens(model: Any, preset: str, **options: Any) -> Tensor:
    torch.manual_seed(4)
    found: Tensor = model.generate(**inputs(preset), max_new_tokens=6, **options)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_same_tokens(pair: tuple[str, Any, Any], way: str) -> None:
    preset, model, reference = pair
    found = tokens(model, preset, **WAYS[way])
    assert torch.equal(found, tokens(reference, preset, **WAYS[way]))


def test_the_adapter_makes_a_difference(pair: tuple[str, Any, Any]) -> None:
    preset, model, _ = pair
    found = tokens(model, preset, do_sample=False)
    base = build(preset)
    base.generation_config = model.generation_config
    plain = tokens(base, preset, do_sample=False)
    assert not torch.equal(found, plain)
    with peftlang.disabled(model):
        assert torch.equal(tokens(model, preset, do_sample=False), plain)


def test_calls_after_the_first_write_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model: nn.Module = adapted("tiny-llama")
    tokens(model, "tiny-llama", do_sample=False)
    made: list[object] = []
    monkeypatch.setattr(Made, "add", lambda _, key, code: made.append((key, code)))
    tokens(model, "tiny-llama", do_sample=False)
    assert not made
