"""Which adapters act, and what belongs to a call, are a thread's own."""

import asyncio
import threading
from typing import Any

import torch
from torch import Tensor

import peftlang
from tests.runtime.acting_models import adapted, inputs, logits, randomised

THREADS, CALLS = 8, 200
WAYS: tuple[tuple[str, ...] | None, ...] = (("default",), ("second",), (), None)


def two() -> Any:
    """A model with a LoRA and a soft prompt."""
    model = adapted("border")
    peftlang.compile(model, "prompt_tuning", adapter_name="second")
    return randomised(model, seed=4).requires_grad_(False)


def answer(model: Any, way: tuple[str, ...] | None, given: dict[str, Any]) -> Tensor:
    if way is None:
        return logits(model, given)
    with peftlang.active(model, *way) if way else peftlang.disabled(model):
        return logits(model, given)


def test_none_of_many_calls_is_wrong() -> None:
    model = two()
    given = [inputs("border", seed=seed, tokens=5 + seed % 3) for seed in range(THREADS)]
    wanted = {(w, n): answer(model, w, one) for w in WAYS for n, one in enumerate(given)}
    assert all(
        not torch.equal(wanted[a, 0], wanted[b, 0]) for a in WAYS for b in WAYS if a is not b
    )
    wrong: list[Any] = []
    start = threading.Barrier(THREADS)

    def run(number: int) -> None:
        start.wait()
        for turn in range(CALLS):
            way = WAYS[(number + turn) % len(WAYS)]
            if not torch.allclose(
                answer(model, way, given[number]), wanted[way, number], atol=1e-5
            ):
                wrong.append((number, turn, way))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_the_default_is_for_all_and_a_scope_for_its_thread() -> None:
    model, given = two(), inputs("border")
    wanted = {way: answer(model, way, given) for way in WAYS}
    found: list[Tensor] = []
    with peftlang.disabled(model):
        other = threading.Thread(target=lambda: found.append(logits(model, given)))
        other.start()
        other.join()
        assert torch.equal(logits(model, given), wanted[()])
        peftlang.set_active(model, "second")
        assert torch.equal(logits(model, given), wanted[()])
    assert torch.equal(found[0], wanted[None])
    assert torch.equal(logits(model, given), wanted["second",])


def test_asynchronous_tasks_have_their_own() -> None:
    model, given = two(), inputs("border")
    wanted = {way: answer(model, way, given) for way in WAYS}

    async def one(way: tuple[str, ...]) -> Tensor:
        with peftlang.active(model, *way) if way else peftlang.disabled(model):
            await asyncio.sleep(0)
            return logits(model, given)

    async def all_at_once() -> tuple[Tensor, ...]:
        return await asyncio.gather(one(("default",)), one(("second",)), one(()))

    for way, found in zip(WAYS, asyncio.run(all_at_once()), strict=False):
        assert torch.equal(found, wanted[way])
