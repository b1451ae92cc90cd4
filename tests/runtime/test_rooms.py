"""Soft tokens before patches and frames, against hooks on the plain model's layers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.virtual_tokens import ids

LENGTH = 3

# Dynamo looks at `.grad` of a graph's inputs after a graph break and hides the warning, which an
# error filter turns into an exception before it can be hidden.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


def layers_of(preset: str, model: Any) -> nn.ModuleList:
    where = {
        "tiny-vit": "vit.layers",
        "tiny-clip": "vision_model.encoder.layers",
        "tiny-whisper": "model.encoder.layers",
        "tiny-mlp": "body",
    }
    found = model.get_submodule(where[preset])
    assert isinstance(found, nn.ModuleList)
    return found


def given(preset: str) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(3)
    if preset == "tiny-whisper":
        frames = torch.randn(2, 20, 48, generator=made)
        return {"input_features": frames, "decoder_input_ids": ids(tokens=5)}
    if preset == "tiny-mlp":
        return {"features": torch.randn(2, 7, 20, generator=made)}
    pixels = torch.randn(2, 3, 16, 16, generator=made)
    return {"pixel_values": pixels} | ({"input_ids": ids()} if preset == "tiny-clip" else {})


def answer(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output.logits if "logits" in output else output.logits_per_image


def hooked(preset: str, prompts: list[Tensor], **options: Any) -> Any:
    """The plain preset whose layers are each given soft tokens of their own behind the first token.

    Where they stand among the tokens makes no difference to layers that know no places.
    """
    model: Any = build(preset, **options)
    stack = layers_of(preset, model)

    def putting(prompt: Tensor, replaces: bool) -> Any:
        def put(_module: nn.Module, args: Any) -> Any:
            h, rest = args[0], args[0][:, 1 + LENGTH * replaces :]
            return (torch.cat([h[:, :1], prompt.expand(len(h), -1, -1), rest], 1), *args[1:])

        return put

    def leaving(_module: nn.Module, _args: Any, h: Tensor) -> Tensor:
        return torch.cat([h[:, :1], h[:, 1 + LENGTH :]], 1)

    for index, prompt in enumerate(prompts):
        stack[index].register_forward_pre_hook(putting(prompt, index > 0))
    stack[-1].register_forward_hook(leaving)
    return model


@pytest.mark.parametrize("preset", ["tiny-vit", "tiny-clip", "tiny-mlp"])
def test_deep_prompts_are_those_of_the_paper(preset: str) -> None:
    scope = " in vision_model" if preset == "tiny-clip" else ""
    spec = f"""
        from deep_prompts import first_prompt, next_prompt
        adapter visual {{
            first_prompt(l = {LENGTH}) at prompt{scope}
            next_prompt(l = {LENGTH}) at block in layers[1..]{scope}
        }}
    """
    model: Any = peftlang.compile(build(preset), spec)
    prompts = list(peftlang.adapters(model)["default"].parameters().values())
    reference = hooked(preset, prompts)
    found, wanted = answer(model(**given(preset))), answer(reference(**given(preset)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(found.square().sum(), prompts)
    same = torch.autograd.grad(wanted.square().sum(), prompts)
    for ours, theirs in zip(gradients, same, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
    with peftlang.disabled(model):
        plain = answer(model(**given(preset)))
    assert torch.equal(plain, answer(build(preset)(**given(preset))))


def test_what_is_handed_back_is_as_long_as_before() -> None:
    asked = {"output_hidden_states": True, "output_attentions": True}
    for preset in ("tiny-vit", "tiny-whisper"):
        eager: Any = {"attn_implementation": "eager"}
        model: Any = peftlang.compile(build(preset, **eager), "prompt_tuning", l=LENGTH)
        (prompt,) = peftlang.adapters(model)["default"].parameters().values()
        plain = build(preset, **eager)(**given(preset), **asked)
        found = model(**given(preset), **asked)
        wanted = hooked(preset, [prompt], **eager)(**given(preset))
        torch.testing.assert_close(answer(found), answer(wanted), rtol=1e-4, atol=1e-5)
        for name, value in plain.items():
            if isinstance(value, tuple) and isinstance(value[0], Tensor):
                assert [v.shape for v in found[name]] == [v.shape for v in value], name
            elif isinstance(value, Tensor):
                assert found[name].shape == value.shape, name


TWO = """
method both(l: int = 2, n: int = 3) {
    input kind : index(2)
    param P[2, l, d_h] ~ normal
    param q[d_h] ~ normal
    position prompt
    let m = mean(h, over tokens)
    composition h = concat(P[kind], reshape(q * m, 1, d_h), h)
}
"""


def test_soft_tokens_may_differ_from_row_to_row() -> None:
    model: Any = peftlang.compile(build("tiny-vit"), TWO)
    pixels = given("tiny-vit")["pixel_values"]
    kind = torch.tensor([0, 1])
    both = model(pixels, kind=kind).logits
    alone = model(pixels[1:], kind=kind[1:]).logits
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[1:], model(pixels[1:], kind=kind[:1]).logits, atol=1e-4)
    states: list[Tensor] = []
    reference: Any = build("tiny-vit")
    named = peftlang.adapters(model)["default"].parameters().items()
    tensors = {name.rpartition(".")[2]: value for name, value in named}

    def put(_module: nn.Module, args: Any) -> Any:
        own = tensors["q"] * args[0].mean(1, keepdim=True)
        states.append(own)
        return (torch.cat([tensors["P"][kind], own, args[0]], 1), *args[1:])

    reference.vit.layers[0].register_forward_pre_hook(put)
    reference.vit.layers[-1].register_forward_hook(lambda _m, _a, h: h[:, 3:])
    torch.testing.assert_close(both, reference(pixels).logits, rtol=1e-4, atol=1e-5)


def test_prompts_of_another_length_take_the_place_of_others() -> None:
    model: Any = peftlang.compile(build("tiny-mlp"), "prompt_tuning", l=LENGTH)
    peftlang.compile(model, "prompt_tuning", l=LENGTH + 2, adapter_name="other")
    both = model(**given("tiny-mlp"))
    parts = [
        next(iter(peftlang.adapters(model)[n].parameters().values())) for n in ("default", "other")
    ]
    for names, prompt in (
        (("other",), parts[1]),
        (("default",), parts[0]),
        (("default", "other"), torch.cat([parts[1], parts[0]])),
    ):
        peftlang.set_active(model, *names)
        reference: Any = build("tiny-mlp")
        count = len(prompt)
        reference.body[0].register_forward_pre_hook(
            lambda _m, args, p=prompt: torch.cat([p.expand(2, -1, -1), args[0]], 1)
        )
        reference.body[-1].register_forward_hook(lambda _m, _a, h, n=count: h[:, n:])
        found = model(**given("tiny-mlp"))
        torch.testing.assert_close(found, reference(**given("tiny-mlp")), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, both)


def test_a_mask_over_patches_leaves_no_room() -> None:
    model: Any = peftlang.compile(build("tiny-vit"), "prompt_tuning", l=LENGTH)
    with pytest.raises(PeftError) as caught:
        model(given("tiny-vit")["pixel_values"], attention_mask=torch.ones(2, 17))
    assert caught.value.code == "R515"
