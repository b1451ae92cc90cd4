"""Layers that a model runs several times, and masks that the survey did not see."""

import copy
from typing import Any

import torch
from transformers import AlbertConfig, AlbertModel, T5Config, T5ForConditionalGeneration

import peftlang
from tests.architectures.by_hand import distance

CLOSE = 2e-5


def moved(model: Any) -> Any:
    """The adapter's tensors, moved from where they start."""
    generator = torch.Generator().manual_seed(9)
    for value in peftlang.adapters(model)["default"].parameters().values():
        value.data += 0.3 * torch.randn(value.shape, generator=generator)
    return model


def test_a_layer_that_runs_at_every_depth_is_adapted_at_each() -> None:
    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=64,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    base = AlbertModel(config).eval()
    reference = copy.deepcopy(base)
    model = moved(peftlang.compile(base, "lora", args={"r": 2, "alpha": 8.0}))
    view = peftlang.adapters(model)["default"]
    (placement,), tensors = view.plan.placements, view.parameters()
    for site in view.sites:
        groups = placement.tensors[site.id]
        change = 4 * tensors[groups["B"]] @ tensors[groups["A"]]
        reference.get_parameter(str(site.weight)).data.add_(change)
    ids = torch.arange(10)[None]
    found = model(ids).last_hidden_state
    assert distance(found, reference(ids).last_hidden_state) < CLOSE
    with peftlang.disabled(model):
        assert distance(found, model(ids).last_hidden_state) > 100 * CLOSE


def test_a_mask_that_the_survey_did_not_see_is_followed() -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    base = T5ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    model = moved(peftlang.compile(base, "prefix_gated"))
    ids, decoded = torch.arange(1, 9).reshape(2, 4), torch.tensor([[0, 3, 4], [0, 5, 6]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    plain = model(input_ids=ids, decoder_input_ids=decoded).logits
    masked = model(input_ids=ids, attention_mask=mask, decoder_input_ids=decoded).logits
    alone = model(input_ids=ids[1:, :2], decoder_input_ids=decoded[1:]).logits
    assert distance(masked[0], plain[0]) < CLOSE
    assert distance(masked[1], alone[0]) < CLOSE
    assert distance(masked[1], plain[1]) > 100 * CLOSE
    with peftlang.disabled(model):
        assert distance(masked, model(ids, mask, decoded).logits) > 100 * CLOSE
