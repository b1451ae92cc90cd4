"""Chosen tokens: the first and last of the prompt, against a hook that is told their places."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.virtual_tokens import TOKENS, ids, left_padded

SHIFT = """\
method shift(first: int = 2, last: int = 1) {
    param v[d_h] ~ normal
    position    block
    composition h = h + tokens(first = first, last = last) * v
}
"""
STACKS = {
    "tiny-llama": ("model.layers",),
    "tiny-gpt2": ("transformer.h",),
    "tiny-bert": ("bert.encoder.layer",),
    "tiny-t5": ("encoder.block", "decoder.block"),
    "tiny-vit": ("vit.layers",),
}


def chosen(mask: Tensor, first: int, last: int) -> Tensor:
    """Booleans: the first and last tokens of each row among those that are no padding."""
    found = torch.zeros_like(mask, dtype=torch.bool)
    for row, kept in zip(found, mask, strict=True):
        places = kept.nonzero().flatten().tolist()
        row[places[:first] + (places[-last:] if last else [])] = True
    return found


def hooked(preset: str, model: nn.Module, masks: dict[str, Tensor], first: int, last: int) -> Any:
    """A plain preset that adds the adapter's vectors at the chosen tokens, by hooks."""
    reference: Any = build(preset)
    vectors = peftlang.adapters(model)["default"].parameters()
    for stack in STACKS[preset]:
        for index, block in enumerate(reference.get_submodule(stack)):
            vector = next(v for n, v in vectors.items() if f"{stack}.{index}." in n)
            at = chosen(masks[stack], first, last)

            def hook(
                _module: nn.Module, _args: Any, out: Any, at: Tensor = at, vector: Tensor = vector
            ) -> Any:
                h = out[0] if isinstance(out, tuple) else out
                if h.shape[1] != at.shape[1]:
                    return None
                h = h + at[..., None] * vector
                return (h, *out[1:]) if isinstance(out, tuple) else h

            block.register_forward_hook(hook)
    return reference


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


PADDED = [
    ("tiny-llama", 2, 1),
    ("tiny-llama", 5, 4),
    ("tiny-gpt2", 0, 2),
    ("tiny-bert", 2, 1),
    ("tiny-t5", 2, 1),
]


@pytest.mark.parametrize(("preset", "first", "last"), PADDED)
def test_padding_does_not_count(preset: str, first: int, last: int) -> None:
    model: Any = peftlang.compile(build(preset), SHIFT, first=first, last=last)
    rows, left = left_padded()
    right = left.flip(-1)
    for mask in (left, right):
        inputs: dict[str, Tensor] = {"input_ids": rows, "attention_mask": mask}
        masks = dict.fromkeys(STACKS[preset], mask)
        if preset == "tiny-t5":
            inputs["decoder_input_ids"] = ids(tokens=5, seed=2)
            masks["decoder.block"] = torch.ones(2, 5, dtype=torch.long)
        reference = hooked(preset, model, masks, first, last)
        found, wanted = model(**inputs).logits, reference(**inputs).logits
        real = slice(None) if preset == "tiny-t5" else mask.bool()
        close(found[real], wanted[real])
        vector = next(iter(peftlang.adapters(model)["default"].parameters().values()))
        gradients = [
            torch.autograd.grad(out[real].square().sum(), vector)[0] for out in (found, wanted)
        ]
        close(*gradients)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}])
def test_generated_tokens_are_not_chosen(options: dict[str, Any]) -> None:
    model: Any = peftlang.compile(build("tiny-llama"), SHIFT, first=1, last=2)
    rows, mask = left_padded()
    beams = options.get("num_beams", 1)
    masks = {"model.layers": mask.repeat_interleave(beams, 0)}
    reference = hooked("tiny-llama", model, masks, 1, 2)
    fixed: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    fixed |= {"attention_mask": mask, "pad_token_id": 0} | options
    found, wanted = model.generate(rows, **fixed), reference.generate(rows, **fixed)
    assert torch.equal(found, wanted)


def test_virtual_tokens_do_not_count() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), SHIFT, first=2, last=0)
    both: Any = peftlang.compile(build("tiny-llama"), SHIFT, first=2, last=0)
    peftlang.compile(both, "prompt_tuning", adapter_name="prompt", l=3)
    with torch.no_grad():
        for vector in peftlang.adapters(model)["default"].parameters().values():
            vector.zero_()
        for vector in peftlang.adapters(both)["default"].parameters().values():
            vector.zero_()
    peftlang.set_active(both, "prompt")
    without = both(ids()).logits
    peftlang.set_active(both, "prompt", "default")
    close(both(ids()).logits, without)
    with torch.no_grad():
        last_layer = list(peftlang.adapters(both)["default"].parameters().values())[-1]
        last_layer.fill_(1.0).add_(torch.arange(len(last_layer)))
    changed = (both(ids()).logits - without).abs().amax((0, 2)) > 1e-3
    assert changed.tolist() == [True, True, *[False] * (TOKENS - 2)]


def test_patches_and_single_layers_are_all_prompt() -> None:
    model: Any = peftlang.compile(build("tiny-vit"), SHIFT)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    stack = next(s.stack for s in peftlang.adapters(model)["default"].sites)
    assert stack is not None
    STACKS["tiny-vit"] = (stack,)
    everything = {stack: torch.ones(2, 17, dtype=torch.long)}
    reference = hooked("tiny-vit", model, everything, 2, 1)
    close(model(images).logits, reference(images).logits)

    language: Any = peftlang.compile(build("tiny-llama"), SHIFT)
    states = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    rotations = language.model.rotary_emb(states, torch.arange(6)[None])
    mask = {"model.layers": torch.ones(2, 6, dtype=torch.long)}
    plain = hooked("tiny-llama", language, mask, 2, 1)
    close(
        language.model.layers[0](states, position_embeddings=rotations),
        plain.model.layers[0](states, position_embeddings=rotations),
    )


def test_cross_attention_keys_are_the_encoders_tokens() -> None:
    spec = SHIFT.replace("block", "cross_attn.k")
    model: Any = peftlang.compile(build("tiny-t5"), spec, first=1, last=0)
    reference: Any = build("tiny-t5")
    rows, mask = left_padded()
    at = chosen(mask, 1, 0)
    vectors = peftlang.adapters(model)["default"].parameters()
    for index, block in enumerate(reference.decoder.block):
        vector = next(v for n, v in vectors.items() if f"block.{index}." in n)
        block.layer[1].EncDecAttention.k.register_forward_hook(
            lambda _m, _a, h, vector=vector: h + at[..., None] * vector
        )
    inputs: dict[str, Any] = {"input_ids": rows, "attention_mask": mask}
    decoder = ids(tokens=5, seed=2)
    close(
        model(**inputs, decoder_input_ids=decoder).logits,
        reference(**inputs, decoder_input_ids=decoder).logits,
    )
    fixed: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **fixed), reference.generate(**inputs, **fixed))


@pytest.mark.filterwarnings("default")
def test_varying_sizes_in_an_inner_backend() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), SHIFT, backend="aot_eager")
    plain: Any = peftlang.compile(build("tiny-llama"), SHIFT)
    for batch, tokens in ((2, 7), (3, 9), (4, 11)):
        rows = ids(batch=batch, tokens=tokens)
        mask = torch.ones_like(rows)
        mask[1, :2] = 0
        close(model(rows, attention_mask=mask).logits, plain(rows, attention_mask=mask).logits)


def test_a_mask_that_does_not_tell_padding() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), SHIFT)
    with pytest.raises(PeftError) as caught:
        model(ids(), attention_mask=torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool))
    assert caught.value.code == "R515"
