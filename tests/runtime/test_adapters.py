"""Adapters on one model: by name, in order, on and off, copied, moved, frozen around."""

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import (
    ALPHA,
    PLACES,
    RANK,
    adapted,
    batch,
    distance,
    matrices,
    merged,
    randomise,
)

CLOSE = 2e-5
PRESET = "tiny-llama"


def logits(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**(batch(PRESET) | inputs)).logits
    return found


@pytest.fixture(scope="module")
def two_kept() -> nn.Module:
    model = adapted(PRESET)
    peftlang.compile(model, "lora", adapter_name="second", r=RANK, alpha=ALPHA)
    randomise(model)
    for name, tensor in peftlang.adapters(model)["second"].parameters().items():
        if name.endswith(".B"):
            tensor.data.mul_(-0.5)
    return model


@pytest.fixture
def two(two_kept: nn.Module) -> Iterator[nn.Module]:
    peftlang.set_active(two_kept, "default", "second")
    yield two_kept
    two_kept.zero_grad()


@pytest.fixture(scope="module")
def base() -> Tensor:
    return logits(build(PRESET))


@pytest.mark.parametrize(
    "names", [("default",), ("second",), ("default", "second"), ("second", "default")]
)
def test_exactly_the_active_ones_act(two: nn.Module, names: tuple[str, ...]) -> None:
    peftlang.set_active(two, *names)
    assert distance(logits(two), logits(merged(two, PRESET, names=names))) < CLOSE
    assert {n for n, v in peftlang.adapters(two).items() if v.active} == set(names)


def test_none_active_is_the_base(two: nn.Module, base: Tensor) -> None:
    peftlang.set_active(two)
    assert torch.equal(logits(two), base)


TIMES = "method times(by: float) { position ffn composition h = by * h }"
PLUS = "method plus(by: float) { position ffn composition h = h + by }"


def test_they_act_in_the_order_in_which_they_are_named() -> None:
    model = build(PRESET)
    peftlang.compile(model, TIMES, adapter_name="times", by=2.0)
    peftlang.compile(model, PLUS, adapter_name="plus", by=3.0)
    for order, change in (
        (("times", "plus"), lambda h: 2 * h + 3),
        (("plus", "times"), lambda h: 2 * (h + 3)),
    ):
        peftlang.set_active(model, *order)
        reference = build(PRESET)
        for layer in reference.model.layers:  # type: ignore[attr-defined,union-attr]
            layer.mlp.register_forward_hook(lambda _m, _x, h, change=change: change(h))
        assert distance(logits(model), logits(reference)) < CLOSE


def test_disabled_is_the_base_exactly(two: nn.Module, base: Tensor) -> None:
    before = logits(two)
    with peftlang.disabled(two):
        assert torch.equal(logits(two), base)
        with peftlang.disabled(two):
            assert torch.equal(logits(two), base)
        assert torch.equal(logits(two), base)
    assert torch.equal(logits(two), before)
    with pytest.raises(ZeroDivisionError), peftlang.disabled(two):
        raise ZeroDivisionError
    assert torch.equal(logits(two), before)
    assert not torch.equal(before, base)


def test_a_failed_call_leaves_it_working(two: nn.Module) -> None:
    before = logits(two)
    with pytest.raises((IndexError, RuntimeError)):
        logits(two, input_ids=torch.full((2, 7), 10_000))
    assert torch.equal(logits(two), before)
    with peftlang.disabled(two):
        assert not torch.equal(logits(two), before)


def test_removing_the_last_gives_the_model_back() -> None:
    model = build(PRESET)
    model.lm_head.weight.requires_grad_(requires_grad=False)  # type: ignore[union-attr]
    before = {n: (p, p.requires_grad) for n, p in model.named_parameters()}
    attributes = {n: set(m.__dict__) for n, m in model.named_modules()}
    wanted = logits(model)
    peftlang.compile(model, "lora")
    peftlang.compile(model, "lora", adapter_name="second")
    randomise(model)
    peftlang.remove(model, "default")
    assert list(peftlang.adapters(model)) == ["second"]
    assert not torch.equal(logits(model), wanted)
    peftlang.remove(model, "second")
    assert torch.equal(logits(model), wanted)
    now = dict(model.named_parameters())
    assert now.keys() == before.keys()
    assert all(now[n] is p and p.requires_grad == flag for n, (p, flag) in before.items())
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == attributes
    assert not peftlang.adapters(model)


def test_unknown_and_repeated_names(two: nn.Module) -> None:
    for call in (
        lambda: peftlang.set_active(two, "secnd"),
        lambda: peftlang.remove(two, "secnd"),
        lambda: peftlang.set_active(two, ["first", "second"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(peftlang.PeftError, match="second") as error:
            call()
        assert error.value.code == "R504"
    for name in ("second", "", "a.b", "a+b", "keys", "train"):
        with pytest.raises(peftlang.PeftError) as error:
            peftlang.compile(two, "lora", adapter_name=name)
        assert error.value.code == "R511"
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.remove(build("tiny-mlp"))
    assert error.value.code == "R505"


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("method m {", {}),
        ("lora", {"at": "cross_attn.q"}),
        ("lora", {"r": 0}),
        ("lora", {"backend": "inductr"}),
        ("lora", {"example_inputs": {"nothing": torch.ones(1)}}),
        ("lora", {"q": 3}),
    ],
    ids=["syntax", "no site", "range", "backend", "inputs", "argument"],
)
def test_a_failed_compile_changes_nothing(spec: str, options: dict[str, Any]) -> None:
    model = build("tiny-gpt2")
    before = {n: set(m.__dict__) for n, m in model.named_modules()}
    with pytest.raises(peftlang.PeftError):
        peftlang.compile(model, spec, **options)
    assert {n: set(m.__dict__) for n, m in model.named_modules()} == before
    assert all(p.requires_grad for p in model.parameters())
    assert not peftlang.adapters(model)


def test_a_copy_is_independent(two: nn.Module) -> None:
    before = logits(two)
    twin = copy.deepcopy(two)
    assert torch.equal(logits(twin), before)
    for parameter in peftlang.adapters(twin)["default"].parameters().values():
        parameter.data.zero_()
    assert not torch.equal(logits(twin), before)
    assert torch.equal(logits(two), before)
    peftlang.set_active(twin)
    assert torch.equal(logits(two), before)
    mine = {id(p) for p in two.parameters()}
    assert not any(id(p) in mine for p in twin.parameters())
    part = copy.deepcopy(two.model.layers[1])  # type: ignore[union-attr,index]
    assert part is not None


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict(two: nn.Module, assign: bool) -> None:
    kept = {name: tensor.clone() for name, tensor in two.state_dict().items()}
    fresh = adapted(PRESET)
    peftlang.compile(fresh, "lora", adapter_name="second", r=RANK, alpha=ALPHA, init_seed=5)
    logits(fresh)
    assert not torch.equal(logits(fresh), logits(two))
    result = fresh.load_state_dict(kept, assign=assign)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(logits(fresh), logits(two))
    trainable = {n for n, p in fresh.named_parameters() if p.requires_grad}
    assert trainable == {n for n in kept if ".peftlang." in n}


def test_other_number_types() -> None:
    model = adapted(PRESET)
    logits(model)
    model.to(torch.float64)
    assert distance(logits(model), logits(merged(model, PRESET))) < 1e-12
    model.to(torch.bfloat16)
    assert logits(model).dtype is torch.bfloat16
    assert distance(logits(model).float(), logits(merged(model, PRESET)).float()) < 0.1


def test_built_on_the_meta_device() -> None:
    wanted = adapted(PRESET)
    with torch.device("meta"):
        model = build(PRESET)
    peftlang.compile(model, "lora", r=RANK, alpha=ALPHA)
    assert all(t.is_meta for t in peftlang.adapters(model)["default"].tensors().values())
    model.to_empty(device="cpu")
    rotary = wanted.model.rotary_emb  # type: ignore[union-attr]
    for name, buffer in rotary.named_buffers():  # type: ignore[union-attr,operator]
        setattr(model.model.rotary_emb, name, buffer.clone())  # type: ignore[union-attr]
    model.load_state_dict(wanted.state_dict())
    model.tie_weights()  # type: ignore[operator]
    assert torch.equal(logits(model), logits(wanted))


def test_a_pickle_is_the_adapted_model(two: nn.Module) -> None:
    again = pickle.loads(pickle.dumps(two))  # noqa: S301
    assert torch.equal(logits(again), logits(two))
    assert list(peftlang.adapters(again)) == list(peftlang.adapters(two))
    for name in ("default", "second"):
        with peftlang.active(again, name), peftlang.active(two, name):
            assert torch.equal(logits(again), logits(two))
    peftlang.remove(again, "default")
    peftlang.remove(again, "second")
    assert torch.equal(logits(again), logits(build(PRESET)))
    assert not torch.equal(logits(two), logits(again))


def test_full_precision_masters_on_a_half_precision_base() -> None:
    half = build(PRESET).bfloat16()
    model = peftlang.compile(half, "lora", r=RANK, param_dtype=torch.float32)
    randomise(model)
    out = model(**batch(PRESET), labels=batch(PRESET)["input_ids"])
    assert out.logits.dtype is torch.bfloat16
    out.loss.backward()
    for tensor in peftlang.adapters(model)["default"].parameters().values():
        assert tensor.dtype is torch.float32
        assert tensor.grad is not None
        assert tensor.grad.dtype is torch.float32
        assert tensor.grad.any()


def start(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    return {n: t.clone() for n, t in peftlang.adapters(model)[name].tensors().items()}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[n], others[n]) for n in some)


def test_seeds() -> None:
    first = start(peftlang.compile(build(PRESET), "lora", init_seed=4))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    model = peftlang.compile(build(PRESET), "dora", adapter_name="before")
    peftlang.compile(model, "lora", init_seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(start(model), first)
    fewer = start(peftlang.compile(build(PRESET), "lora", at="attn.v", init_seed=4))
    assert fewer
    assert same(fewer, {n: first[n] for n in fewer})
    other = start(peftlang.compile(build(PRESET), "lora", init_seed=5))
    assert not any(torch.equal(other[n], first[n]) for n in first if n.endswith(".A"))
    every = [t for n, t in first.items() if n.endswith(".A")]
    assert not any(torch.equal(every[0], t) for t in every[1:])


def test_training_leaves_the_base_as_it_is() -> None:
    model = adapted(PRESET)
    own = {id(p) for p in peftlang.adapters(model)["default"].parameters().values()}
    kept = {n: p.clone() for n, p in model.named_parameters() if id(p) not in own}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
    reference = merged(model, PRESET)
    model.train()
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = model(**batch(PRESET), labels=batch(PRESET)["input_ids"]).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in kept.items())
    assert all(torch.equal(dict(model.named_buffers())[n], b) for n, b in buffers.items())
    model.eval()
    assert not torch.allclose(logits(model), logits(reference))
    assert distance(logits(model), logits(merged(model, PRESET))) < CLOSE


def test_a_replaced_parameter_is_the_one_that_is_used() -> None:
    model = adapted(PRESET)
    logits(model)
    a, _ = matrices(model, PLACES[PRESET][0])
    a.data = torch.randn_like(a)
    assert distance(logits(model), logits(merged(model, PRESET))) < CLOSE
    name = next(n for n, p in model.named_parameters() if p is a)
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(torch.ones_like(a)))
    assert distance(logits(model), logits(merged(model, PRESET))) < CLOSE


def test_parts_that_are_called_alone_are_adapted_whatever_was_done_before() -> None:
    """With the first adapter gone, or never active, nobody has called the whole model yet."""
    model = adapted(PRESET)
    peftlang.compile(model, "lora", adapter_name="second", r=RANK, alpha=ALPHA)
    randomise(model)
    x = torch.randn(2, 3, 32)
    part = model.model.layers[0].self_attn.q_proj  # type: ignore[union-attr,index]
    with peftlang.disabled(model):
        plain = part(x)
    with peftlang.active(model, "second"):
        second = part(x)
    assert not torch.equal(second, plain)
    peftlang.remove(model, "default")
    assert torch.equal(part(x), second)
    peftlang.set_active(model)
    assert torch.equal(part(x), plain)
    with peftlang.active(model, "second"):
        assert torch.equal(part(x), second)
