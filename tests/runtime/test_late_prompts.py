"""Soft tokens that come in at a layer in the middle, against the plain model run by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.late_prompts import (
    LATE,
    LENGTH,
    K,
    by_hand,
    deep,
    prompt_of,
)
from tests.runtime.virtual_tokens import ids, left_padded

# Dynamo looks for the gradients of what a frame is given, and hides what torch says to that.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")

ROWS, MASK = left_padded()
REAL = MASK.bool()
INPUTS = {"input_ids": ROWS, "attention_mask": MASK}
STATES = INPUTS | {"output_hidden_states": True}
AHEAD = torch.ones(2, 2, dtype=torch.long)


def late(preset: str, spec: str = LATE, **options: Any) -> Any:
    """This preset with an adapter."""
    return peftlang.compile(deep(preset).eval(), spec, **options)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt2", "tiny-bert", "tiny-opt"])
def test_as_its_layers_run_by_hand(preset: str) -> None:
    """Outputs, what the layers before make, and gradients; with padding in front."""
    model = late(preset)
    prompt = prompt_of(model)
    found, plain = model(**STATES), deep(preset)(**STATES)
    wanted = by_hand(preset, {K: prompt}, MASK)(**STATES)
    close(found.logits[REAL], wanted.logits[REAL])
    states = zip(found.hidden_states, plain.hidden_states, strict=True)
    for index, (state, base) in enumerate(states):
        assert state.shape == base.shape
        assert torch.allclose(state[REAL], base[REAL], atol=1e-12) == (index <= K)
    ours, theirs = (
        torch.autograd.grad(out.logits[REAL].square().sum(), prompt)[0] for out in (found, wanted)
    )
    assert theirs.abs().max() > 1e-4
    close(ours, theirs)


def test_before_the_sequence_of_an_encoder_that_a_decoder_reads() -> None:
    model, fed = late("tiny-t5", LATE.replace("[k]", "[k] in encoder")), ids(tokens=5, seed=2)
    found = model(**INPUTS, decoder_input_ids=fed)
    encoder = by_hand("tiny-t5", {K: prompt_of(model)}, MASK).encoder
    states = BaseModelOutput(last_hidden_state=encoder(**INPUTS).last_hidden_state)
    longer = torch.cat([torch.ones(2, LENGTH, dtype=torch.long), MASK], dim=1)
    plain = deep("tiny-t5")
    wanted = plain(encoder_outputs=states, attention_mask=longer, decoder_input_ids=fed)
    close(found.logits, wanted.logits)
    assert found.encoder_last_hidden_state.shape[1] == ROWS.shape[1]


def test_before_patches() -> None:
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3)).double()
    asked = {"output_hidden_states": True, "output_attentions": True}
    model: Any = deep("tiny-vit")
    model.set_attn_implementation("eager")
    peftlang.compile(model, LATE)
    found, prompt = model(pixels, **asked), prompt_of(model)
    reference = deep("tiny-vit")
    layers = reference.vit.layers
    layers[K].register_forward_pre_hook(
        lambda _module, args: (torch.cat([prompt.expand(2, -1, -1), args[0]], 1), *args[1:])
    )
    layers[-1].register_forward_hook(lambda _module, _args, h: h[:, LENGTH:])
    close(found.logits, reference(pixels).logits)
    with peftlang.disabled(model):
        plain = model(pixels, **asked)
    for name in ("hidden_states", "attentions"):
        assert [s.shape for s in found[name]] == [s.shape for s in plain[name]]
    for index, (state, base) in enumerate(
        zip(found.hidden_states, plain.hidden_states, strict=True)
    ):
        assert torch.equal(state, base) == (index <= K)


NEW = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


def test_generation() -> None:
    model = late("tiny-gpt2")
    rows, mask = ROWS, MASK
    for _ in range(5):
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        plain = by_hand("tiny-gpt2", {K: prompt_of(model)}, mask)
        out = plain(input_ids=rows, attention_mask=mask, position_ids=places, use_cache=False)
        rows = torch.cat([rows, out.logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    assert torch.equal(model.generate(**INPUTS, **NEW), rows)


def test_a_sliding_window_forgets_soft_tokens_as_others() -> None:
    """A cache that has dropped the first tokens, the room among them, and a step at a time."""
    model: Any = peftlang.compile(deep("tiny-mistral", sliding_window=5), LATE)
    rows = ids(tokens=14)
    whole = model(rows, use_cache=False).logits
    first = model(rows[:, :9])
    close(first.logits, whole[:, :9])
    cache = first.past_key_values
    for place in range(9, 14):
        step = model(rows[:, place : place + 1], past_key_values=cache)
        close(step.logits[:, 0], whole[:, place])


SEVERAL = f"""{LATE}
method first(l: int = 2) {{
    param P[l, d_h] ~ normal
    position    prompt
    composition h = concat(P, h)
}}
adapter all {{
    late(l = 2) at prompt in layers[2]
    late(l = 3)
    first(l = 2)
}}
"""


def test_several_stand_in_the_order_in_which_they_come_in() -> None:
    model = late("tiny-llama", SEVERAL, entry="all")
    last, middle, first = peftlang.adapters(model)["default"].parameters().values()
    peftlang.compile(model, LATE, adapter_name="second", l=1, k=2, init_seed=5)
    joined = {1: middle, 2: torch.cat([prompt_of(model, "second"), last])}
    mask = torch.cat([AHEAD, MASK], dim=1)
    plain = by_hand("tiny-llama", joined, mask)
    embeds = torch.cat([first.expand(2, -1, -1), plain.get_input_embeddings()(ROWS)], dim=1)
    wanted = plain(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits[:, 2:]
    found = model(**INPUTS).logits
    close(found[REAL], wanted[REAL])
    peftlang.set_active(model, "second")
    alone = by_hand("tiny-llama", {2: prompt_of(model, "second")}, MASK)(**INPUTS, use_cache=False)
    close(model(**INPUTS).logits[REAL], alone.logits[REAL])


ALONG = """
method along(r: int = 8) {
    param D[r, d_x] ~ normal
    param K[r, 3]   ~ normal
    param U[d_h, r] ~ normal
    position    ffn in layers[0]
    let         z = D @ x
    function    delta = U @ gelu(CALL)
    composition h = h + delta
}
"""


@pytest.mark.parametrize(
    ("preset", "call"),
    [
        ("tiny-llama", "conv(z, K) + sequence_norm(z) + self_attention(z, z, z)"),
        ("tiny-bert", "pool(z) + tokens(first = 2) * z"),
    ],
)
def test_functions_along_the_sequence_do_not_read_the_room(preset: str, call: str) -> None:
    model = late(preset, ALONG.replace("CALL", call))
    alone = model(**STATES).hidden_states
    peftlang.compile(model, LATE, adapter_name="late")
    both = model(**STATES).hidden_states
    close(both[1][REAL], alone[1][REAL])
    assert not torch.allclose(both[-1][REAL], alone[-1][REAL], atol=1e-4)


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-bert"])
def test_learned_keys_in_the_layers_before(preset: str) -> None:
    """A prefix has no position: it meets queries that are turned as they are without the room."""
    model = late(preset, "prefix", l=2)
    for prefix in peftlang.adapters(model)["default"].parameters().values():
        with torch.no_grad():
            prefix.mul_(50)
    alone = model(**STATES).hidden_states
    peftlang.compile(model, LATE, adapter_name="late")
    both = model(**STATES).hidden_states
    assert torch.allclose(both[K][REAL], alone[K][REAL], atol=1e-12)
    assert not torch.allclose(both[-1][REAL], alone[-1][REAL], atol=1e-4)


MADE = """
method made(l: int = 3, m: int = 4) {
    param A[m, d_h] ~ normal
    param B[l * d_h, m] ~ normal
    TAP
    position    prompt in layers[1]
    composition h = concat(reshape(B @ relu(A @ FROM), l, d_h), h)
}
"""
TAP = "tap y[n, d_h] = block.h in layers[0]"


@pytest.mark.parametrize(
    ("source", "tap"),
    [
        ("h[0]", ""),
        ("mean(h, over tokens)", ""),
        ("mean(y, over n)", TAP),
        ("reshape(part(h, 0, 1), d_h)", ""),
    ],
)
def test_made_of_other_hidden_states(source: str, tap: str) -> None:
    """Of what the layer reads, or another one gives; where they average, padding is left out."""
    model = late("tiny-bert", MADE.replace("FROM", source).replace("TAP", tap))
    into, out = peftlang.adapters(model)["default"].parameters().values()
    rows, mask = ROWS.flip(1), MASK.flip(1)
    found = model(input_ids=rows, attention_mask=mask).logits[1:, :4]
    alone = rows[1:, :4]
    states = deep("tiny-bert")(alone, output_hidden_states=True).hidden_states[K]
    read = states.mean(1) if "mean" in source else states[:, 0]
    prompt = (torch.relu(read @ into.T) @ out.T).view(3, -1)
    close(found, by_hand("tiny-bert", {K: prompt}, torch.ones(1, 4))(alone).logits)


def test_training_saving_and_removing(tmp_path: Path) -> None:
    model = late("tiny-llama", l=2)
    labels = {"labels": ROWS.masked_fill(~REAL, -100), "use_cache": False}
    wanted = torch.autograd.grad(model(**INPUTS, **labels).loss, prompt_of(model))[0]
    model.train()
    model.activation_checkpointing_enable()
    found = torch.autograd.grad(model(**INPUTS, **labels).loss, prompt_of(model))[0]
    model.activation_checkpointing_disable()
    model.eval()
    assert wanted.abs().max() > 1e-4
    close(found, wanted)
    logits = model(**INPUTS).logits
    peftlang.save(model, tmp_path / "late", adapter_name="default")
    again: Any = peftlang.load(deep("tiny-llama"), tmp_path / "late")
    assert torch.equal(again(**INPUTS).logits, logits)
    peftlang.remove(again, "default")
    assert torch.equal(again(**INPUTS).logits, deep("tiny-llama")(**INPUTS).logits)


def test_half_precision_and_spelled_out_attention() -> None:
    model: Any = build("tiny-llama", attn_implementation="eager").to(torch.bfloat16)
    peftlang.compile(model, LATE, param_dtype=torch.float32)
    base: Any = build("tiny-llama", attn_implementation="eager").to(torch.bfloat16)
    asked = {"output_hidden_states": True, "output_attentions": True}
    found, plain = model(**INPUTS, **asked), base(**INPUTS, **asked)
    assert found.logits.dtype is torch.bfloat16
    assert [a.shape for a in found.attentions] == [a.shape for a in plain.attentions]
    assert torch.equal(found.hidden_states[K][REAL], plain.hidden_states[K][REAL])
    assert not torch.equal(found.hidden_states[-1][REAL], plain.hidden_states[-1][REAL])
    found.logits.float().square().mean().backward()
    assert prompt_of(model).grad is not None


def test_at_the_first_layer_they_come_behind_the_embeddings() -> None:
    """Where positions were added, and the sequence's own are those that it has without."""
    model = late("tiny-gpt2", k=0)
    wanted = by_hand("tiny-gpt2", {0: prompt_of(model)}, MASK)(**INPUTS)
    close(model(**STATES).logits[REAL], wanted.logits[REAL])


@pytest.mark.parametrize(
    ("preset", "scope", "said"),
    [
        ("tiny-llama", "layers[2]", "layers are 0..1"),
        ("tiny-vit", "layers[7]", "layers are 0..1"),
        ("tiny-mamba", "layers[1]", "layer 0 has no attention"),
        ("tiny-t5", "layers[1] in decoder", "encoder"),
    ],
)
def test_layers_that_have_no_place_for_them(preset: str, scope: str, said: str) -> None:
    spec = LATE.replace("layers[k]", scope)
    with pytest.raises(PeftError) as caught:
        peftlang.compile(build(preset), spec)
    assert caught.value.code in {"S404", "S405"}
    assert said in str(caught.value)


def test_a_layer_that_is_named_twice_is_one() -> None:
    for scope, count in (("[1, 1]", 1), ("[1..]", 2)):
        model = late("tiny-llama", LATE.replace("[k]", scope))
        assert len(peftlang.adapters(model)["default"].parameters()) == count


READERS = [
    "tap y[d_h] = block.h in layers[0]  position ffn in layers[1..]  composition h = h + s * y",
    "tap y[d_h] = embed.h  position block in layers[1]  composition h = h + s * y",
    "carry y[d_h] ~ 0  position block  composition y = y + s * h  composition h = h + y",
    "position attn.core in layers[0]  composition k = k + s * mean(k, over keys)",
]


@pytest.mark.parametrize("clauses", READERS)
def test_what_would_read_the_room(clauses: str) -> None:
    both = f"method reader {{ param s ~ ones  {clauses} }} adapter both {{\nlate()\nreader()\n}}"
    with pytest.raises(PeftError) as caught:
        peftlang.compile(late("tiny-llama"), LATE + both, entry="both", adapter_name="reader")
    assert caught.value.code == "S419"


def test_what_would_read_the_room_of_another_adapter() -> None:
    model = late("tiny-llama", f"method reader {{ param s ~ ones  {READERS[0]} }}")
    alone = model(**STATES).logits
    with pytest.raises(PeftError) as caught:
        peftlang.compile(model, LATE, adapter_name="late")
    assert caught.value.code == "S419"
    assert "late" not in peftlang.adapters(model)
    assert torch.equal(model(**STATES).logits, alone)
