"""Taps, carried states and penalties over activations, against plain PyTorch on hooks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf",
    "ignore:`gradient_checkpointing_:FutureWarning",
)
PRESET = "tiny-llama"
SPEC = """
method m(r: int = 4, E: int = 3) {
    carry s[d_h] ~ e
    carry n ~ zeros
    tap   e[d_h] = embed.h
    tap   f[d_h] = ffn.h
    tap   g[d_h] = attn.h in layers[0]
    param R[E, d_h] ~ normal
    param D[r, d_h] ~ normal(std = 0.3)
    param U[d_h, r] ~ normal(std = 0.3)

    position block
    let F = U @ (D @ (s + g))
    let p = softmax(R @ h, over E)
    composition s = s + F
    composition n = n + 1
    composition h = h + s + n * f

    penalty 0.1 * sum(h * h)
    penalty E * sum(mean(chosen(p, 2, over E), over batch) * mean(p, over batch))
    penalty 0.01 * sum(D * D)
}
"""
IDS = torch.arange(3, 17).reshape(2, 7) * 5
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
BATCH = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS, "use_cache": False}


class ByHand:
    """The same in plain PyTorch: hooks on a base, the tensors copied."""

    def __init__(self, adapter: Any) -> None:
        self.model = build(PRESET).requires_grad_(False)
        self.tensors = {
            name: value.detach().clone().requires_grad_()
            for name, value in adapter.tensors().items()
        }
        self.now: dict[str, Any] = {}
        self.terms: list[Tensor] = []
        inner: Any = self.model.model
        inner.embed_tokens.register_forward_hook(self.kept("e"))
        inner.layers[0].self_attn.register_forward_hook(self.kept("g"))
        for index, layer in enumerate(inner.layers):
            layer.mlp.register_forward_hook(self.kept("f"))
            layer.register_forward_hook(self.changed(index))

    def kept(self, name: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: Any, out: Any) -> None:
            self.now[name] = out[0] if isinstance(out, tuple) else out

        return keep

    def changed(self, index: int) -> Callable[..., Tensor]:
        own = {key: self.tensors[f"m.model.layers.{index}.block.{key}"] for key in "RDU"}

        def change(_module: nn.Module, _args: Any, h: Tensor) -> Tensor:
            now, real = self.now, MASK.bool()
            s = now["e"] if index == 0 else now["s"]
            count = 0 if index == 0 else now["n"]
            p = torch.softmax(h @ own["R"].T, -1)[real]
            top = torch.zeros_like(p).scatter(-1, p.topk(2, -1).indices, 1.0)
            self.terms += [
                0.1 * (h * h).sum(-1)[real].mean(),
                3 * (top.mean(0) * p.mean(0)).sum(),
                0.01 * (own["D"] ** 2).sum(),
            ]
            now["s"], now["n"] = s + (s + now["g"]) @ own["D"].T @ own["U"].T, count + 1
            return h + s + count * now["f"]

        return change

    def loss(self, *, training: bool) -> Tensor:
        self.terms.clear()
        loss: Tensor = self.model(**BATCH).loss
        return loss + sum(self.terms) if training else loss

    def gradients(self) -> dict[str, Tensor]:
        self.loss(training=True).backward()
        return {name: value.grad for name, value in self.tensors.items() if value.grad is not None}


def close(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= 2e-5 * max(float(b.abs().max()), 1e-3)


@pytest.fixture(scope="module")
def adapted() -> nn.Module:
    return peftlang.compile(build(PRESET), SPEC)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    (adapter,) = peftlang.adapters(model).values()
    return {n: p.grad for n, p in adapter.parameters().items() if p.grad is not None}


def compare(model: nn.Module) -> None:
    (adapter,) = peftlang.adapters(model).values()
    hand = ByHand(adapter)
    model.zero_grad()
    assert close(model.eval()(**BATCH).loss, hand.loss(training=False))
    assert peftlang.penalties(model) == {}
    loss = model.train()(**BATCH).loss
    assert close(loss, hand.loss(training=True))
    assert close(peftlang.penalties(model)["default.m"], torch.stack(hand.terms).sum())
    loss.backward()
    want, got = hand.gradients(), gradients(model)
    assert want.keys() == got.keys()
    for name, value in want.items():
        assert value.abs().max() > 0, name
        assert close(got[name], value), name


def test_equals_hooks_in_value_and_gradient(adapted: nn.Module) -> None:
    compare(adapted)


def test_equals_hooks_when_layers_are_recomputed(adapted: nn.Module) -> None:
    adapted.activation_checkpointing_enable()  # type: ignore[operator]
    try:
        compare(adapted)
    finally:
        adapted.activation_checkpointing_disable()  # type: ignore[operator]


def broken(module: Any) -> None:
    """A graph break after a layer, so that the model is several graphs."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        torch._dynamo.graph_break()
        return out

    module.forward = forward


def test_equals_hooks_across_graphs() -> None:
    model = build(PRESET)
    for layer in model.model.layers:  # type: ignore[union-attr]
        broken(layer)
    compare(peftlang.compile(model, SPEC))


def test_a_part_alone_says_what_is_missing(adapted: nn.Module) -> None:
    layer: Any = adapted.model.layers[1]  # type: ignore[union-attr,index]
    inner: Any = adapted.model
    x = torch.randn(1, 4, 32)
    with pytest.raises(peftlang.PeftError, match="of another site is not there") as caught:
        layer(x, position_embeddings=inner.rotary_emb(x, torch.arange(4)[None]))
    assert caught.value.code == "R521"


@pytest.mark.parametrize(
    ("tap", "code"),
    [
        ("tap y[d_h] = block.h in layers[layer - 1]", "S416"),
        ("tap y[d_h] = block.h in layers[layer + 1]", "S416"),
        ("tap y[d_h] = block.h in layers[-1]", "S417"),
        ("tap y[d_h] = norm.h in layers[0]", "S416"),
        ("tap y[d_head] = embed.h", "S416"),
        ("tap y[d_h] = cross_attn.h", "S416"),
        ("tap y[n, d_h] = embed.h", "S414"),
    ],
)
def test_a_tap_that_cannot_be(tap: str, code: str) -> None:
    spec = (
        f"method m {{\n {tap}\n param w[d_h] ~ zeros\n position attn.q\n"
        " composition h = h + sum(w) * mean(y) * h\n}}"
    ).replace("}}", "}")
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- Dynamo wraps what a backend raises
        peftlang.compile(build(PRESET), spec)(input_ids=IDS)
    text = f"{getattr(caught.value, 'code', '')} {caught.value!r} {caught.value.__cause__!r}"
    assert code in text, text
