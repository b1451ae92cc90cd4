"""Clauses that change operands and the output of one site, in one method and in several.

The language says what happens: all clauses of a method read the old values, and a method finds
what those before it left. Here that is written once more in plain PyTorch, for the adapted model
and for the merged one.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

import peftlang
from peftlang.models import build

X, W, SUM, H, GAIN = (
    "x = s * x",
    "W = 2 * W",
    "W = W + A",
    "h = h + A @ x + W @ x",
    "h = t * h",
)
MEANING = {
    X: lambda v: v["s"] * v["x"],
    W: lambda v: 2 * v["W"],
    SUM: lambda v: v["W"] + v["A"],
    H: lambda v: v["h"] + linear(v["x"], v["A"]) + linear(v["x"], v["W"]),
    GAIN: lambda v: v["t"] * v["h"],
}
ADAPTERS: dict[str, list[tuple[str, ...]]] = {
    "one method": [(X, W, H)],
    "the output first": [(GAIN, X)],
    "a method before": [(X,), (H,)],
    "a method after": [(H,), (X,)],
    "between": [(H,), (X, SUM), (H,)],
    "all": [(SUM, GAIN, X), (X, H, W), (GAIN, X)],
}


class Projection(nn.Module):
    """One matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x)


def method(clauses: tuple[str, ...], position: str) -> str:
    body = "\n".join(f"composition {clause}" for clause in clauses)
    tensors = "param s[d_x] ~ normal param A[d_h, d_x] ~ normal(std = 0.3) param t[d_h] ~ normal"
    return f"method m {{ {tensors} position {position} {body} }}"


def meant(
    x: Tensor, weight: Tensor, methods: list[tuple[str, ...]], tensors: list[dict[str, Tensor]]
) -> Tensor:
    values = {"x": x, "W": weight}
    found: list[dict[str, Tensor]] = []
    for clauses, own in zip(methods, tensors, strict=True):
        found.append({**values, **own})
        new = {c[0]: MEANING[c](found[-1]) for c in clauses if c[0] != "h"}
        values = {**values, **new}
    h = linear(values["x"], values["W"])
    for own_clauses, operands in zip(methods, found, strict=True):
        for clause in own_clauses:
            h = MEANING[clause]({**operands, "h": h}) if clause[0] == "h" else h
    return h


@pytest.mark.parametrize("name", ADAPTERS)
def test_operands_are_read_as_a_method_finds_them(name: str) -> None:
    model, x = Projection(), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    weight, tensors = model.q.weight.detach().clone(), []
    for index, clauses in enumerate(ADAPTERS[name]):
        peftlang.compile(
            model, method(clauses, '"q"'), adapter_name=f"a{index}", example_inputs={"x": x}
        )
        found = peftlang.adapters(model)[f"a{index}"].parameters().items()
        tensors.append({key.rpartition(".")[2]: value.detach() for key, value in found})
    expected = meant(x, weight, ADAPTERS[name], tensors)
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(peftlang.merge(model, example_inputs={"x": x})(x), expected)


@pytest.mark.parametrize("clauses", [(X, W, H), (GAIN, X)])
def test_a_slice_of_a_fused_projection_is_changed_alike(clauses: tuple[str, ...]) -> None:
    model: PreTrainedModel = build("tiny-phi3").eval()
    fused = model.model.layers[0].self_attn.qkv_proj
    seen: list[tuple[Tensor, Tensor]] = []
    weight = fused.weight.detach().clone()
    peftlang.compile(model, method(clauses, "attn.q"))
    fused.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    ids = torch.arange(12).reshape(2, 6)
    expected = model(ids).logits
    named = peftlang.adapters(model)["default"].parameters()
    first = sorted(named)[:3]
    own = {key.rpartition(".")[2]: named[key].detach() for key in first}
    torch.testing.assert_close(peftlang.merge(model)(ids).logits, expected, rtol=1e-4, atol=1e-5)
    x, merged = seen[-2]
    rows = own["A"].shape[0]
    assert len(own) == 3
    torch.testing.assert_close(
        merged[..., :rows], meant(x, weight[:rows], [clauses], [own]), rtol=1e-4, atol=1e-5
    )


SEQUENCES: list[list[tuple[bool, tuple[str, ...]]]] = [
    [(False, (H,)), (True, (GAIN,)), (False, (H,)), (True, (GAIN,))],
    [(True, (GAIN,)), (False, (H,)), (False, (GAIN,)), (True, (H,))],
    [(False, (SUM, H)), (True, (H, W)), (False, (X, GAIN)), (True, (W, H))],
    [(True, (X, SUM)), (False, (H,)), (True, (H,)), (False, (W, GAIN))],
]


def one_after_the_other(
    x: Tensor,
    weight: Tensor,
    rows: int,
    methods: list[tuple[bool, tuple[str, ...]]],
    tensors: list[dict[str, Tensor]],
) -> Tensor:
    """What methods make of a projection that act on all of it, or (True) on the first rows."""
    shared, own, found = x, None, []
    for (part, clauses), trained in zip(methods, tensors, strict=True):
        n = rows if part else len(weight)
        at = shared if own is None or not part else own
        found.append({"x": at, "W": weight[:n], **trained})
        new = {c[0]: MEANING[c](found[-1]) for c in clauses if c[0] != "h"}
        weight = torch.cat([new.get("W", weight[:n]), weight[n:]])
        if part and rows < len(weight):
            own = new.get("x", own)
        else:
            shared = new.get("x", shared)
    h = linear(shared, weight)
    if own is not None:
        h = torch.cat([linear(own, weight[:rows]), h[..., rows:]], dim=-1)
    for (part, clauses), values in zip(methods, found, strict=True):
        n = rows if part else len(weight)
        for clause in clauses:
            if clause[0] == "h":
                changed = MEANING[clause]({**values, "h": h[..., :n]})
                h = torch.cat([changed, h[..., n:]], dim=-1)
    return h


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize(
    ("preset", "whole"), [("tiny-llama", "self_attn.q_proj"), ("tiny-phi3", "self_attn.qkv_proj")]
)
def test_sites_of_one_projection_act_in_the_order_of_their_methods(
    preset: str, whole: str, sequence: list[tuple[bool, tuple[str, ...]]]
) -> None:
    model: PreTrainedModel = build(preset).eval()
    path = f"model.layers.0.{whole}"
    weight, tensors = model.get_parameter(f"{path}.weight").detach().clone(), []
    for index, (part, clauses) in enumerate(sequence):
        position = "attn.q in layers[0]" if part else f'"{path}"'
        peftlang.compile(model, method(clauses, position), adapter_name=f"a{index}")
        named = peftlang.adapters(model)[f"a{index}"].parameters().items()
        tensors.append({key.rpartition(".")[2]: value.detach() for key, value in named})
    rows = tensors[[part for part, _ in sequence].index(True)]["A"].shape[0]
    ids, seen = torch.arange(12).reshape(2, 6), []
    expected = model(ids).logits
    peftlang.merge(model)
    model.get_submodule(path).register_forward_hook(lambda _m, a, out: seen.append((a[0], out)))
    merged = model(ids).logits
    x, found = seen[0]
    meant_here = one_after_the_other(x, weight, rows, sequence, tensors)
    torch.testing.assert_close(found, meant_here, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)


def test_what_reads_a_changed_activation_reads_it_changed() -> None:
    """`ffn.act` is read by the last projection, and by what methods say there."""
    model: PreTrainedModel = build("tiny-gpt2").eval()
    ids = torch.arange(12).reshape(2, 6)
    down = model.transformer.h[0].mlp.c_proj
    weight = down.weight.detach().clone()
    peftlang.compile(model, method((H,), "ffn.down in layers[0]"), adapter_name="down")
    gain = "method g { param t[d_h] ~ normal position ffn.act in layers[0] composition h = t * h }"
    peftlang.compile(model, gain, adapter_name="gain")
    own = peftlang.adapters(model)["down"].parameters()
    (a,) = [value for key, value in own.items() if key.endswith(".A")]
    (t,) = peftlang.adapters(model)["gain"].parameters().values()
    expected = model(ids).logits
    for name in ("down", "gain"):
        peftlang.remove(model, name)
    with torch.no_grad():
        down.weight.copy_(t[:, None] * (weight + a.T + weight))
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
