"""Generation with a soft prompt: every way of decoding, caches, padding, conversations."""

import copy
from typing import Any

import pytest
import torch

import peftlang
from peftlang.diagnostics import PeftError
from tests.runtime.virtual_tokens import (
    BOTH_SIDES,
    LENGTH,
    TOKENS,
    extended,
    ids,
    left_padded,
    prompt_of,
    prompted,
    with_virtual,
)

GENERATING: dict[str, list[dict[str, Any]]] = {
    "tiny-llama": [
        {},
        {"num_beams": 3},
        {"do_sample": True},
        {"use_cache": False},
        {"cache_implementation": "static", "prefill_chunk_size": 3},
        {"prompt_lookup_num_tokens": 2},
    ],
    "tiny-gpt2": [{"cache_implementation": "static", "num_beams": 2}],
    "tiny-t5": [{"num_beams": 3}, {"cache_implementation": "static"}],
}


@pytest.mark.parametrize("preset", GENERATING)
def test_generate(preset: str) -> None:
    model: Any = prompted(preset)
    reference = extended(preset, prompt_of(model))
    rows, mask = left_padded()
    longer, longer_mask = with_virtual(rows, mask)
    both = preset in BOTH_SIDES
    for options in GENERATING[preset]:
        count = 1 if "prompt_lookup_num_tokens" in options else 2
        fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0, "do_sample": False}
        torch.manual_seed(5)
        found = model.generate(rows[:count], attention_mask=mask[:count], **fixed | options)
        torch.manual_seed(5)
        wanted = reference.generate(
            longer[:count], attention_mask=longer_mask[:count], **fixed | options
        )
        if not both:
            assert torch.equal(found[:, :TOKENS], rows[:count])
            found, wanted = found[:, TOKENS:], wanted[:, TOKENS + LENGTH :]
        assert torch.equal(found, wanted), options


def test_a_conversation_goes_on() -> None:
    model: Any = prompted("tiny-llama")
    rows, mask = left_padded()
    fixed: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    first = model.generate(rows, attention_mask=mask, return_dict_in_generate=True, **fixed)
    assert first.past_key_values.get_seq_length() == TOKENS + 3
    more = torch.cat([first.sequences, ids(tokens=3, seed=4)], 1)
    longer = torch.cat([mask, torch.ones(2, 7, dtype=torch.long)], 1)
    copied = copy.deepcopy(first.past_key_values)
    for cache in (first.past_key_values, copied):
        found = model.generate(more, attention_mask=longer, past_key_values=cache, **fixed)
        assert torch.equal(found, model.generate(more, attention_mask=longer, **fixed))


def test_a_cache_goes_with_its_prompt() -> None:
    model: Any = prompted("tiny-llama")
    with peftlang.disabled(model):
        cache = model(ids()).past_key_values
    with pytest.raises(PeftError) as caught:
        model(ids(tokens=1), past_key_values=cache)
    assert caught.value.code == "R515"
    cache = model(ids()).past_key_values
    peftlang.compile(model, "lora", adapter_name="other")
    peftlang.set_active(model, "other")
    with pytest.raises(PeftError) as caught:
        model(ids(tokens=1), past_key_values=cache)
    assert caught.value.code == "R515"


def test_a_copy_has_its_own_prompt() -> None:
    model: Any = prompted("tiny-llama")
    before = model(ids()).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        prompt_of(twin).zero_()
    assert not torch.allclose(twin(ids()).logits, before, atol=1e-4)
    fixed: dict[str, Any] = {"max_new_tokens": 2, "cache_implementation": "static"}
    assert twin.generate(ids(), **fixed).shape == (2, TOKENS + 2)
    assert torch.equal(model(ids()).logits, before)
