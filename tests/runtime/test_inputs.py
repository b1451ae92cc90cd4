"""Values that come with a call, and penalties that go into the loss."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import batch, distance

# Dynamo hides this warning of its own from whoever shows warnings, not from who makes them errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
CLOSE = 2e-5
PRESET = "tiny-llama"
SCALES = """
method scales(n: int = 3) {
    input task : index(n)
    input strength : float
    param S[n, d_h] ~ normal(std = 1.0)

    position ffn
    composition h = h + strength * S[task]
}
"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return peftlang.compile(build(PRESET), SCALES)


def by_hand(model: nn.Module, tasks: list[int], strengths: list[float]) -> Tensor:
    """Logits of the base with each layer's addition as a hook."""
    base = build(PRESET)
    view = peftlang.adapters(model)["default"]
    (placement,) = view.plan.placements
    for site in view.sites:
        table = view.tensors()[placement.tensors[site.id]["S"]].detach()
        added = (torch.tensor(strengths)[:, None] * table[tasks])[:, None]
        mlp = base.model.layers[site.layer].mlp  # type: ignore[union-attr,index]
        mlp.register_forward_hook(lambda _m, _x, h, added=added: h + added)  # type: ignore[union-attr]
    return run(base)


def run(model: Any, **inputs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**batch(PRESET), **inputs).logits
    return found


@pytest.mark.parametrize(
    ("task", "strength", "tasks", "strengths"),
    [
        (2, 0.5, [2, 2], [0.5, 0.5]),
        ([0, 2], 1.0, [0, 2], [1.0, 1.0]),
        (torch.tensor([1, 0]), torch.tensor([0.25, -2.0]), [1, 0], [0.25, -2.0]),
        (torch.tensor([1]), [3.0], [1, 1], [3.0, 3.0]),
    ],
    ids=["one for all", "a list", "one each", "a batch of one"],
)
def test_given_with_the_call_or_around_it(
    model: nn.Module, task: Any, strength: Any, tasks: list[int], strengths: list[float]
) -> None:
    wanted = by_hand(model, tasks, strengths)
    assert distance(run(model, task=task, strength=strength), wanted) < CLOSE
    with peftlang.inputs(model, task=task, strength=9.0):
        with peftlang.inputs(model, strength=strength):
            assert distance(run(model), wanted) < CLOSE
        assert distance(run(model, strength=strength), wanted) < CLOSE
        assert not torch.equal(run(model), wanted)


def test_one_generation_for_each_row_has_its_own(model: nn.Module) -> None:
    ids = batch(PRESET)["input_ids"]
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with peftlang.inputs(model, task=[0, 2], strength=[2.0, 1.0]):
        together = model.generate(input_ids=ids, **options)  # type: ignore[operator]
    for row, (task, strength) in enumerate(((0, 2.0), (2, 1.0))):
        with peftlang.inputs(model, task=task, strength=strength):
            alone = model.generate(input_ids=ids[row : row + 1], **options)  # type: ignore[operator]
        assert torch.equal(alone[0], together[row, : alone.shape[1]])


def test_missing(model: nn.Module) -> None:
    with pytest.raises(peftlang.PeftError, match="strength") as error:
        run(model, task=1)
    assert error.value.code == "R503"
    assert "peftlang.inputs" in str(error.value.help)
    with peftlang.disabled(model):
        run(model)


@pytest.mark.parametrize(
    "bad",
    [
        {"task": 3},
        {"task": -1},
        {"task": [0, 7]},
        {"task": 1.5},
        {"task": "one"},
        {"task": [[0, 1]]},
        {"task": [0, 1, 2]},
        {"strength": [[1.0]]},
        {"task": None},
        {"tusk": 1},
    ],
    ids=str,
)
def test_values_that_do_not_fit(model: nn.Module, bad: dict[str, Any]) -> None:
    before = run(model, task=0, strength=1.0)
    with pytest.raises(peftlang.PeftError) as error:  # noqa: SIM117
        with peftlang.inputs(model, **({"task": 1, "strength": 1.0} | bad)):
            run(model)
    assert error.value.code == "R512"
    assert torch.equal(run(model, task=0, strength=1.0), before)


HYPER = {"r": 2, "t": 4, "tasks": 3}


def test_hyperformer_takes_a_task_for_each_row() -> None:
    model = peftlang.compile(build(PRESET), "hyperformer", **HYPER)
    for tensor in peftlang.adapters(model)["default"].parameters().values():
        tensor.data.normal_(generator=torch.Generator().manual_seed(2), std=0.5)
    both = run(model, task=torch.tensor([2, 0]))
    assert distance(run(model, task=2)[:1], both[:1]) < CLOSE
    assert distance(run(model, task=0)[1:], both[1:]) < CLOSE
    assert not torch.allclose(run(model, task=1)[:1], both[:1])


@pytest.mark.parametrize("how", ["mapping", "tuple"])
def test_a_penalty_joins_the_loss_in_training_only(how: str) -> None:
    beta = 0.01
    model = peftlang.compile(build("tiny-gpt2"), "diff_pruning", args={"beta": beta})
    inputs = batch("tiny-gpt2")
    inputs |= {"labels": inputs["input_ids"], "return_dict": how == "mapping"}
    parameters = peftlang.adapters(model)["default"].parameters()
    gates = [t for n, t in parameters.items() if n.endswith("log_alpha")]
    for index, gate in enumerate(gates):
        gate.data.fill_(0.1 * index)
    # Louizos et al. 2018, eq. 12, with their temperature and stretch.
    shift = 2 / 3 * torch.log(torch.tensor(0.1 / 1.1))
    penalty = beta * sum(float(torch.sigmoid(gate - shift).detach().sum()) for gate in gates)

    def loss() -> Tensor:
        torch.manual_seed(0)
        found: Tensor = model(**inputs)[0]
        return found

    base = build("tiny-gpt2")(**inputs)[0]
    model.eval()
    assert torch.equal(loss(), base)
    model.config.update({"attn_pdrop": 0.0})
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(loss().detach(), base.detach() + penalty, rtol=1e-5, atol=1e-5)
    loss().backward()
    assert all(gate.grad is not None and gate.grad.any() for gate in gates)
    with peftlang.disabled(model):
        torch.testing.assert_close(loss(), base)


def test_an_input_may_have_a_size_of_the_site() -> None:
    spec = """method m {
        input v[d_x] : float
        position    %s
        composition x = x + v
    }"""
    model = peftlang.compile(build("tiny-llama"), spec % "attn.q")
    ids = torch.arange(6)[None]
    v = torch.randn(1, 32)
    plain = build("tiny-llama")(input_ids=ids).logits
    assert not torch.allclose(model(input_ids=ids, v=v).logits, plain)
    torch.testing.assert_close(model(input_ids=ids, v=0 * v).logits, plain)
    with pytest.raises(peftlang.PeftError, match="32"):
        model(input_ids=ids, v=torch.randn(1, 31))
    with pytest.raises(peftlang.PeftError, match="has not one size") as error:
        peftlang.compile(build("tiny-llama"), spec % "attn.q, ffn.down")
    assert error.value.code == "S409"
