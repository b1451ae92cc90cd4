"""An adapted model is a plain PyTorch module: moved, copied, pickled, hooked, called with others'
parameters, freed."""

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import peftlang
from tests.architectures.by_hand import distance, merged
from tests.runtime import acting_models as models
from tests.runtime.acting_models import CASES, FEW, adapted, base, inputs, logits

CLOSE = 2e-5
every = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def wanted() -> dict[str, Tensor]:
    """What adapted models answer, as they are called plainly."""
    with torch.no_grad():
        found = {case: logits(adapted(case), inputs(case)) for case in CASES}
        for case in CASES:
            assert distance(found[case], logits(base(case), inputs(case))) > 0.01
    return found


def test_plain_calls_are_right() -> None:
    """What others are compared with below, by hand where that is cheap."""
    model = peftlang.compile(base("border"), "lora", r=4, alpha=16)
    models.randomised(model)
    right = logits(merged(model, "tiny-llama"), inputs("border"))
    assert distance(logits(model, inputs("border")), right) < CLOSE
    model, given = adapted("tokens"), inputs("tokens")
    (prompt,) = peftlang.adapters(model)["default"].parameters().values()
    plain, rows = base("tokens"), given["input_ids"].shape[0]
    embeds = plain.get_input_embeddings()(given["input_ids"])
    embeds = torch.cat([prompt.expand(rows, *prompt.shape), embeds], dim=1)
    mask = torch.cat([torch.ones(rows, len(prompt)).long(), given["attention_mask"]], dim=1)
    by_hand = plain(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
    shown = given["attention_mask"].bool()
    assert distance(logits(model, given)[shown], by_hand[:, len(prompt) :][shown]) < CLOSE


@every
def test_number_types(case: str, wanted: dict[str, Tensor]) -> None:
    model = adapted(case)
    logits(model, inputs(case))
    found = logits(model.double(), inputs(case))
    assert found.dtype is torch.float64
    assert distance(found.float(), wanted[case]) < 1e-4
    assert distance(logits(model.to(torch.float32), inputs(case)), wanted[case]) < CLOSE


@every
def test_names_of_the_base_stay(case: str) -> None:
    model, plain = adapted(case), base(case)
    own = [n for n, _ in model.named_parameters() if ".peftlang." not in f".{n}"]
    assert own == [n for n, _ in plain.named_parameters()]
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() <= model.state_dict().keys()
    assert all(".peftlang." in f".{name}" for name in added)
    values = peftlang.adapters(model)["default"].parameters().values()
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in values}


@every
@pytest.mark.parametrize("called", [False, True], ids=["never called", "called"])
def test_a_copy_is_independent(case: str, called: bool, wanted: dict[str, Tensor]) -> None:
    model = adapted(case)
    if called:
        logits(model, inputs(case))
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, inputs(case)), wanted[case])
    for parameter in peftlang.adapters(twin)["default"].parameters().values():
        parameter.data.mul_(0.5)
    assert torch.equal(logits(model, inputs(case)), wanted[case])
    assert not torch.equal(logits(twin, inputs(case)), wanted[case])
    peftlang.remove(twin)
    assert torch.equal(logits(twin, inputs(case)), logits(base(case), inputs(case)))
    assert torch.equal(logits(model, inputs(case)), wanted[case])


@every
def test_pickled(case: str, wanted: dict[str, Tensor]) -> None:
    again = pickle.loads(pickle.dumps(adapted(case)))  # noqa: S301
    assert torch.equal(logits(again, inputs(case)), wanted[case])
    with peftlang.disabled(again):
        assert torch.equal(logits(again, inputs(case)), logits(base(case), inputs(case)))


PROCESS = """
import sys
import torch
from tests.runtime.acting_models import FEW, inputs, logits
models = torch.load(sys.argv[1], weights_only=False)
torch.save({case: logits(models[case], inputs(case)).detach() for case in FEW}, sys.argv[2])
"""


def test_in_another_process(tmp_path: Path, wanted: dict[str, Tensor]) -> None:
    """That has no classes of ours until it unpickles."""
    torch.save({case: adapted(case) for case in FEW}, tmp_path / "models")
    paths = [str(tmp_path / name) for name in ("models", "found")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROCESS, *paths], check=True)
    found = torch.load(tmp_path / "found")
    for case in FEW:
        assert torch.equal(found[case], wanted[case])


def work(model: Any, meeting: Any) -> None:
    """What a spawned worker does: answers, then changes a shared tensor."""
    torch.set_num_threads(1)
    meeting.put(logits(model, inputs("border")).detach().numpy())
    for parameter in peftlang.adapters(model)["default"].parameters().values():
        parameter.data.zero_()


def test_spawned_workers_share_the_memory(wanted: dict[str, Tensor]) -> None:
    model = adapted("border")
    model.share_memory()
    assert all(parameter.is_shared() for parameter in model.parameters())
    context = torch.multiprocessing.get_context("spawn")
    meeting = context.SimpleQueue()
    process = context.Process(target=work, args=(model, meeting))
    process.start()
    found = torch.from_numpy(meeting.get())
    process.join()
    assert process.exitcode == 0
    assert distance(found, wanted["border"]) < CLOSE
    assert torch.equal(logits(model, inputs("border")), logits(base("border"), inputs("border")))


@every
@pytest.mark.parametrize("when", ["before compile", "before a call", "after a call"])
def test_hooks_run(case: str, when: str, wanted: dict[str, Tensor]) -> None:
    """Every module that runs in the base runs its hooks in the adapted model, as often."""
    counted = []
    for model in (base(case), base(case)):
        ran: dict[str, int] = {}
        counted.append(ran)
        adapts = len(counted) == 2
        if adapts and when != "before compile":
            peftlang.compile(model, CASES[case][2])
            if when == "after a call":
                logits(models.randomised(model), inputs(case))
        for path, module in model.named_modules():
            if "peftlang" not in path.split("."):

                def note(*_: Any, path: str = path, ran: dict[str, int] = ran) -> None:
                    ran[path] = ran.get(path, 0) + 1

                module.register_forward_hook(note)
                module.register_forward_pre_hook(note)
        if adapts and when == "before compile":
            peftlang.compile(model, CASES[case][2])
            assert not ran
        if adapts and when != "after a call":
            models.randomised(model)
        found = logits(model, inputs(case))
        assert torch.equal(found, wanted[case]) == adapts
    assert counted[0] == counted[1]


def test_a_hook_changes_what_the_adapter_reads() -> None:
    model = peftlang.compile(base("border"), "lora", r=4, alpha=16)
    models.randomised(model)
    reference = merged(model, "tiny-llama")
    for one in (model, reference):
        module = one.model.layers[1].self_attn.q_proj
        module.register_forward_pre_hook(lambda _, args: (2 * args[0],))
        module.register_forward_hook(lambda _m, _a, result: result + 1)
    found, right = (logits(one, inputs("border")) for one in (model, reference))
    assert distance(found, right) < CLOSE


@every
def test_a_dropped_model_is_freed(case: str) -> None:
    model = adapted(case)
    logits(model, inputs(case)).sum().backward()
    kept = [weakref.ref(one) for one in (model, *model.parameters())]
    del model
    gc.collect()
    assert not [one for one in kept if one() is not None]


@every
def test_what_is_removed_leaves_nothing_behind(case: str) -> None:
    model, plain = adapted(case), base(case)
    logits(model, inputs(case)).sum().backward()
    peftlang.compile(model, "lora", adapter_name="second")
    peftlang.remove(model)
    peftlang.remove(model, "second")
    found, right = list(model.named_modules()), list(plain.named_modules())
    assert [path for path, _ in found] == [path for path, _ in right]
    for (_, module), (_, other) in zip(found, right, strict=True):
        assert type(module) is type(other)
        assert module.__dict__.keys() == other.__dict__.keys()
        for name, value in other.__dict__.items():
            if name.endswith("_hooks"):
                assert len(module.__dict__[name]) == len(value)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert mine.requires_grad == theirs.requires_grad
    assert torch.equal(logits(model, inputs(case)), logits(plain, inputs(case)))
