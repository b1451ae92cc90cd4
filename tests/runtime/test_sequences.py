"""Functions along the sequence and tokens by their ids, against hooks with torch's own modules."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.virtual_tokens import ids, left_padded

MLP = {
    "tiny-llama": ("model.layers", "mlp"),
    "tiny-bert": ("bert.encoder.layer", "output.dense"),
    "tiny-vit": ("vit.layers", "mlp"),
    "tiny-t5": ("decoder.block", "layer.2.DenseReluDense"),
}
HEAD = "method m(n: int = 3) {{\n {params}\n position ffn\n {let}\n composition h = h + {value}\n}}"


def spec(value: str, params: str = "", let: str = "") -> str:
    return HEAD.format(value=value, params=params, let=let)


CONV = spec("conv(h, K)", "param K[d_h, n] ~ normal(std = 0.3)")
FULL = spec("conv(h, K, causal = false)", "param K[d_h, d_h, n] ~ normal(std = 0.1)")
NORM = spec("0.3 * sequence_norm(h)")
POOL = spec("pool(h, causal = false)")
ATTEND = spec(
    "reshape(self_attention(q, k, k), d_h)",
    "param Q[d_h, d_h] ~ normal(std = 0.2)\n param K[d_h, d_h] ~ normal(std = 0.2)",
    "let q = reshape(Q @ h, 2, d_h / 2)\n let k = reshape(K @ h, 2, d_h / 2)",
)

Change = Callable[[dict[str, Tensor], Tensor, Tensor, bool], Tensor]
"""Tensors, the hidden state ``[tokens, d]`` of one row without padding, its ids, causal."""


def conv(p: dict[str, Tensor], h: Tensor, _ids: Tensor, causal: bool) -> Tensor:
    layer = nn.Conv1d(32, 32, 3, groups=32, bias=False, padding=0 if causal else 1)
    padded = functional.pad(h.T, (2, 0)) if causal else h.T
    return torch.func.functional_call(layer, {"weight": p["K"].unsqueeze(1)}, padded[None])[0].T


def full(p: dict[str, Tensor], h: Tensor, _ids: Tensor, _causal: bool) -> Tensor:
    return functional.conv1d(h.T[None], p["K"], padding=1)[0].T


def norm(_p: dict[str, Tensor], h: Tensor, _ids: Tensor, causal: bool) -> Tensor:
    rows = [h[: t + 1] if causal else h for t in range(len(h))]
    parts = [
        (h[t] - row.mean(0)) / (row.var(0, unbiased=False) + 1e-5).sqrt()
        for t, row in enumerate(rows)
    ]
    return 0.3 * torch.stack(parts)


def pool(_p: dict[str, Tensor], h: Tensor, _ids: Tensor, _causal: bool) -> Tensor:
    return h.mean(0, keepdim=True)


def attend(p: dict[str, Tensor], h: Tensor, _ids: Tensor, causal: bool) -> Tensor:
    q, k = ((h @ p[name].T).unflatten(-1, (2, 16)).transpose(0, 1) for name in "QK")
    return (
        functional.scaled_dot_product_attention(q, k, k, is_causal=causal)
        .transpose(0, 1)
        .flatten(1)
    )


CASES: dict[str, tuple[str, Change]] = {
    "conv": (CONV, conv),
    "full": (FULL, full),
    "norm": (NORM, norm),
    "pool": (POOL, pool),
    "attention": (ATTEND, attend),
}


def rowwise(preset: str, model: nn.Module, change: Change, mask: Tensor, rows: Tensor) -> Any:
    """A plain preset whose feed-forward outputs are changed row by row, padding taken out."""
    reference: Any = build(preset)
    stack, inner = MLP[preset]
    held = peftlang.adapters(model)["default"].parameters()
    for index, block in enumerate(reference.get_submodule(stack)):
        own = {n.rpartition(".")[2]: t for n, t in held.items() if f"{stack}.{index}." in n}

        def hook(_m: nn.Module, _a: Any, h: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            out = h.clone()
            for row, real in enumerate(mask.bool()):
                causal = preset in {"tiny-llama", "tiny-t5"}
                out[row, real] = h[row, real] + change(own, h[row, real], rows[row, real], causal)
            return out

        block.get_submodule(inner).register_forward_hook(hook)
    return reference


def compared(model: Any, reference: Any, inputs: dict[str, Tensor], real: Any) -> None:
    found, wanted = model(**inputs).logits[real], reference(**inputs).logits[real]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    held = list(peftlang.adapters(model)["default"].parameters().values())
    if held:
        pairs = [torch.autograd.grad(out.square().sum(), held) for out in (found, wanted)]
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-bert"])
def test_padding_is_no_part_of_a_sequence(preset: str, case: str) -> None:
    text, change = CASES[case]
    model = peftlang.compile(build(preset), text)
    rows, mask = left_padded()
    reference = rowwise(preset, model, change, mask, rows)
    compared(model, reference, {"input_ids": rows, "attention_mask": mask}, mask.bool())


def test_a_decoder_is_causal_and_its_encoder_is_not() -> None:
    text = CONV.replace("position ffn", "position ffn in decoder")
    model: Any = peftlang.compile(build("tiny-t5"), text)
    decoder = ids(tokens=5, seed=2)
    everything = torch.ones_like(decoder)
    reference = rowwise("tiny-t5", model, conv, everything, decoder)
    compared(model, reference, {"input_ids": ids(), "decoder_input_ids": decoder}, slice(None))


def test_patches_are_convolved_in_two_dimensions() -> None:
    text = spec("conv2(h, K)", "param K[d_h, d_h, n, n] ~ normal(std = 0.1)")
    model: Any = peftlang.compile(build("tiny-vit"), text)

    def change(p: dict[str, Tensor], h: Tensor, _ids: Tensor, _causal: bool) -> Tensor:
        image = h[1:].T.reshape(1, 32, 4, 4)
        token = h[:1].T.reshape(1, 32, 1, 1)
        parts = [functional.conv2d(x, p["K"], padding=1).flatten(2)[0].T for x in (token, image)]
        return torch.cat(parts)

    nothing = torch.ones(2, 17, dtype=torch.long)
    reference = rowwise("tiny-vit", model, change, nothing, nothing)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    compared(model, reference, {"pixel_values": pixels}, slice(None))
    with pytest.raises(PeftError) as caught:
        model.vit.layers[0](torch.randn(2, 17, 32))
    assert caught.value.code == "R519"


def test_a_cache_holds_no_earlier_states() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), CONV)
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with pytest.raises(PeftError) as caught:
        model.generate(ids(), **options)
    assert caught.value.code == "R520"
    made = model.generate(ids(), use_cache=False, **options)
    assert torch.equal(made[:, -1], model(made[:, :-1]).logits[:, -1].argmax(-1))


BY_ID = """\
method m(n: int = 2, a: int = 5) {
    param V[n, d_x] ~ normal
    param w[d_x]    ~ normal
    position block
    composition x = x + occurrence(n, a, "eos") @ V + token_is(a) * w
}
"""


def by_hand(p: dict[str, Tensor], row: Tensor) -> Tensor:
    found = torch.zeros(len(row), 32)
    places = [t for t, one in enumerate(row.tolist()) if one in {5, 2}]
    for k, t in enumerate(places[:2]):
        found[t] += p["V"][k]
    return found + (row == 5).unsqueeze(1) * p["w"]


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-bert"])
def test_tokens_by_their_ids_at_the_input_of_every_layer(preset: str) -> None:
    base = build(preset)
    base.config.eos_token_id = 2  # type: ignore[union-attr]
    model: Any = peftlang.compile(base, BY_ID)
    rows, mask = left_padded()
    rows[0, 2], rows[0, 4], rows[0, 5], rows[1, 4], rows[1, 0] = 5, 2, 5, 2, 5
    reference: Any = build(preset)
    held = peftlang.adapters(model)["default"].parameters()
    stack = MLP[preset][0]
    for index, block in enumerate(reference.get_submodule(stack)):
        own = {n.rpartition(".")[2]: t for n, t in held.items() if f"{stack}.{index}." in n}

        def hook(_m: nn.Module, args: Any, own: dict[str, Tensor] = own) -> Any:
            h = args[0].clone()
            for row, real in enumerate(mask.bool()):
                h[row, real] = h[row, real] + by_hand(own, rows[row, real])
            return (h, *args[1:])

        block.register_forward_pre_hook(hook)
    compared(model, reference, {"input_ids": rows, "attention_mask": mask}, mask.bool())


def test_ids_of_generated_tokens_are_known_too() -> None:
    text = BY_ID.replace('occurrence(n, a, "eos") @ V + ', "").replace(
        "param V[n, d_x] ~ normal", ""
    )
    text = text.replace("token_is(a)", 'token_is(a, "special")')
    model: Any = peftlang.compile(build("tiny-llama"), text, a=int(ids()[0, 3]))
    rows, mask = left_padded()
    fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "attention_mask": mask}
    cached = model.generate(rows, **fixed)
    assert torch.equal(cached, model.generate(rows, use_cache=False, **fixed))
    with pytest.raises(PeftError) as caught:
        model(inputs_embeds=model.get_input_embeddings()(rows))
    assert caught.value.code == "R517"


@pytest.mark.parametrize(
    ("preset", "text", "code"),
    [
        ("tiny-vit", BY_ID, "S412"),
        ("tiny-bert", BY_ID.replace("eos", "cls"), "S412"),
        ("tiny-bert", spec("conv2(h, K)", "param K[d_h, n, n] ~ zeros"), "S413"),
        ("tiny-llama", spec("pool(h)"), "S414"),
    ],
)
def test_what_a_model_lacks_is_said_when_it_is_compiled(preset: str, text: str, code: str) -> None:
    with pytest.raises(PeftError) as caught:
        peftlang.compile(build(preset), text)
    assert caught.value.code == code


def test_merging_says_that_other_tokens_are_read() -> None:
    model = peftlang.compile(build("tiny-llama"), CONV)
    reasons = {found.reason for found in peftlang.why_not_mergeable(model)}
    assert reasons == {"`conv` reads other tokens than its own"}
