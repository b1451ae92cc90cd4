"""The adapted model as one graph: what it computes, holds, and refuses."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build, example_inputs

CASES = [
    ("tiny-llama", "lora"),
    ("tiny-llama", "prefix"),
    ("tiny-llama", "prompt_tuning"),
    ("tiny-llama", "deep_prompts"),
    ("tiny-llama", "ia3"),
    ("tiny-llama", "dora"),
    ("tiny-bert", "houlsby"),
    ("tiny-gpt2", "bitfit"),
    ("tiny-gpt2", "unipelt"),
    ("tiny-t5", "prefix"),
    ("tiny-mlp", "prefix"),
    ("tiny-mixtral", "lora"),
    ("tiny-deberta-v2", "lora"),
    ("tiny-transformer-encoder", "lora"),
    ("tiny-clip", "bridger"),
]
IDS = torch.arange(3, 17).reshape(2, 7)
PLAIN = {"input_ids": IDS, "use_cache": False}


def adapted(preset: str, spec: str, *, training: bool = False, **options: Any) -> nn.Module:
    """A model whose adapter is not as it started."""
    model = peftlang.compile(build(preset), spec, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peftlang.adapters(model)["default"].parameters().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.train(training)


def tensors(model: Any, inputs: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(5)
    return [leaf for leaf in tree_leaves(model(**inputs)) if isinstance(leaf, Tensor)]


def unpickled(made: Any) -> Any:
    return pickle.loads(pickle.dumps(made))  # noqa: S301


def same(one: Any, other: Any, inputs: dict[str, Any]) -> None:
    for found, wanted in zip(tensors(one, inputs), tensors(other, inputs), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("preset", "spec"), CASES)
def test_it_computes_the_adapted_model(preset: str, spec: str, *, training: bool) -> None:
    """To the bit, dropout included; itself, copied, and unpickled."""
    model = adapted(preset, spec, training=training)
    inputs = example_inputs(model)
    made = peftlang.graph(model, inputs)
    assert type(made).__mro__[1] is GraphModule
    assert type(made(**inputs)) is type(model(**inputs))
    same(made, model, inputs)
    same(copy.deepcopy(made), model, inputs)
    same(unpickled(made), model, inputs)
    with peftlang.disabled(model):
        base = tensors(model, inputs)
    assert not torch.equal(tensors(made, inputs)[0], base[0])


@pytest.mark.parametrize(("preset", "spec"), CASES)
def test_its_gradients_are_the_adapted_models(preset: str, spec: str) -> None:
    model = adapted(preset, spec, training=True)
    inputs = example_inputs(model)
    made = peftlang.graph(model, inputs)
    trained = list(peftlang.adapters(model)["default"].parameters().values())
    found, wanted = (
        torch.autograd.grad(tensors(one, inputs)[0].square().sum(), trained, allow_unused=True)
        for one in (made, model)
    )
    assert any(gradient is not None for gradient in wanted)
    for own, other in zip(found, wanted, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt2", "tiny-t5"])
def test_its_parameters_are_the_models_own_by_their_names(preset: str) -> None:
    model = adapted(preset, "lora")
    made = peftlang.graph(model, example_inputs(model))
    own = dict(model.named_parameters())
    for name, parameter in made.named_parameters():
        assert own[name] is parameter
    adapter = [name for name in own if "peftlang" in name]
    assert adapter
    assert set(adapter) <= set(dict(made.named_parameters()))
    assert set(made.state_dict()) <= set(model.state_dict())


def test_training_it_trains_the_model() -> None:
    model = adapted("tiny-llama", "lora", training=True)
    inputs = PLAIN | {"labels": IDS}
    made = peftlang.graph(model, inputs)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    before = model(**inputs).loss
    made(**inputs).loss.backward()
    optimizer.step()
    after = model(**inputs).loss
    assert after < before
    assert torch.equal(after, made(**inputs).loss)


def test_the_model_is_as_it_was() -> None:
    model = adapted("tiny-bert", "lora", training=True)
    inputs = example_inputs(model)
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    random = torch.get_rng_state()
    modules = [type(module) for module in model.modules()]
    kept = [dict(module.__dict__) for module in model.modules()]
    peftlang.graph(model, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert [type(module) for module in model.modules()] == modules
    assert [dict(module.__dict__).keys() for module in model.modules()] == [k.keys() for k in kept]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_other_values_in_the_tensors() -> None:
    model = adapted("tiny-llama", "prompt_tuning")
    made = peftlang.graph(model, PLAIN)
    same(made, model, PLAIN | {"input_ids": IDS.flip(1) + 2})


def test_the_adapters_that_act_now() -> None:
    model = adapted("tiny-llama", "lora")
    peftlang.compile(model, "ia3", adapter_name="b")
    with torch.no_grad():
        for parameter in peftlang.adapters(model)["b"].parameters().values():
            parameter.mul_(1.5)
    graphs = {}
    for names in ((), ("default",), ("b",), ("default", "b")):
        with peftlang.active(model, *names):
            graphs[names] = peftlang.graph(model, PLAIN)
            same(graphs[names], model, PLAIN)
    results = [tensors(made, PLAIN)[0] for made in graphs.values()]
    assert all(
        not torch.equal(one, other) for i, one in enumerate(results) for other in results[:i]
    )


TASK = """
method by_task(tasks: int = 3) {
    input task : index(tasks)
    param g[tasks, d_h] ~ normal
    position    attn.q
    composition h = h * g[task]
}
"""


def test_inputs_of_the_spec() -> None:
    """One that is given with the call is an argument; one that is supplied around it is fixed."""
    model = adapted("tiny-llama", TASK)
    inputs = PLAIN | {"task": torch.tensor([0, 2])}
    made = peftlang.graph(model, inputs)
    same(made, model, inputs)
    same(made, model, PLAIN | {"task": torch.tensor([1, 0])})
    with peftlang.inputs(model, task=1):
        fixed = peftlang.graph(model, PLAIN)
        wanted = tensors(model, PLAIN)
    assert torch.equal(tensors(fixed, PLAIN)[0], wanted[0])


def test_what_it_holds_is_looked_at_from_outside(tmp_path: Path) -> None:
    model = adapted("tiny-llama", "lora")
    made = peftlang.graph(model, PLAIN)
    torch.save(made, tmp_path / "graph.pt")
    loaded = torch.load(tmp_path / "graph.pt", weights_only=False)
    same(loaded, model, PLAIN)
    assert "q_proj.peftlang.default.lora.attn_q.A" in made.code
    made.graph.eliminate_dead_code()
    made.recompile()
    same(made, model, PLAIN)
    with pytest.raises(PeftError):
        made(**PLAIN | {"input_ids": IDS[:, :5]})


MASK = torch.ones(2, 7, dtype=torch.long)
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": IDS[:, :5]}, r"`input_ids` is a tensor \[2, 5\] of int64, and not"),
        ({"input_ids": IDS[:1]}, "`input_ids` is a tensor"),
        ({"input_ids": IDS.int()}, "of int32"),
        ({"use_cache": True}, "`use_cache` is True, and not False"),
        ({"attention_mask": MASK}, "goes another way for the values"),
        ({"attention_mask": None}, "`attention_mask`"),
    ],
)
def test_another_kind_of_call_is_refused(change: dict[str, Any], said: str) -> None:
    model = adapted("tiny-llama", "lora")
    inputs = PLAIN | {"attention_mask": PADDED}
    made = peftlang.graph(model, inputs)
    same(made, model, inputs)
    same(made, model, inputs | {"attention_mask": PADDED.flip(0)})
    with pytest.raises(PeftError, match=said) as caught:
        made(**inputs | change)
    assert caught.value.code == "R538"


@pytest.mark.filterwarnings("ignore:.activation_checkpointing_enable. is dep:FutureWarning")
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is dep:FutureWarning")
def test_checkpointed_layers_are_layers() -> None:
    model: Any = adapted("tiny-llama", "prefix", training=True)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    same(peftlang.graph(model, PLAIN), model, PLAIN)


def test_number_types_are_the_models() -> None:
    base = build("tiny-llama").bfloat16()
    model = peftlang.compile(base, "lora", param_dtype=torch.float32)
    made = peftlang.graph(model, PLAIN)
    same(made, model, PLAIN)
    kinds = {name: p.dtype for name, p in made.named_parameters()}
    assert {kind for name, kind in kinds.items() if "peftlang" in name} == {torch.float32}


@pytest.mark.parametrize("preset", ["tiny-mlp", "tiny-llama"])
def test_it_is_exported_and_compiled(preset: str) -> None:
    model = adapted(preset, "lora")
    inputs = example_inputs(model)
    made = peftlang.graph(model, inputs)
    wanted = tensors(model, inputs)[0]
    exported = torch.export.export(made, (), inputs)
    torch.testing.assert_close(tensors(exported.module(), inputs)[0], wanted)
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    torch.testing.assert_close(tensors(compiled, inputs)[0], wanted)


AT = '"first", "second"'


class ReadsItsWeights(nn.Module):
    """A model that goes by the values of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if bool(self.first.weight.sum() > 0) else x


def test_a_model_that_reads_its_weights_is_recorded_with_them() -> None:
    torch.manual_seed(0)
    model, inputs = ReadsItsWeights(), {"x": torch.randn(2, 3, 4)}
    with torch.no_grad():
        model.first.weight.abs_()
    peftlang.compile(model, "lora", at=AT, example_inputs=inputs)
    made = peftlang.graph(model, inputs)
    same(made, model, inputs)
    with torch.no_grad():
        model.first.weight.neg_()
    with pytest.raises(PeftError, match="another way"):
        made(**inputs)


class WithoutGradients(nn.Module):
    """A model that keeps gradients from a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        return self.second(x)  # type: ignore[no-any-return]


def test_what_is_computed_without_gradients_has_none() -> None:
    model, inputs = WithoutGradients(), {"x": torch.randn(2, 3, 4)}
    peftlang.compile(model, "lora", at=AT, example_inputs=inputs)
    made = peftlang.graph(model, inputs)
    trained = peftlang.adapters(model)["default"].parameters()
    gradients = torch.autograd.grad(made(**inputs).sum(), list(trained.values()), allow_unused=True)
    for name, gradient in zip(trained, gradients, strict=True):
        assert (gradient is None) == ("first" in name)


class InPlace(nn.Module):
    """A model that writes into what it has made, and into a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.linear(x))
        part = h[:, :2]
        part += 1
        h[:, 3] = 0
        h *= 2
        return part + h[:, 2:]


def test_operations_in_place_and_buffers_that_change() -> None:
    model, inputs = InPlace(), {"x": torch.randn(5, 4)}
    peftlang.compile(model, "lora", at='"linear"', example_inputs=inputs)
    model.train()
    made = peftlang.graph(model, inputs)
    assert int(model.norm.num_batches_tracked) == 0  # type: ignore[arg-type]
    copies = [copy.deepcopy(model), unpickled(made), made]
    results = [one(**inputs) for one in copies]
    assert all(torch.equal(result, results[0]) for result in results)
    assert int(model.norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def refused(model: nn.Module, inputs: Any) -> PeftError:
    with pytest.raises(PeftError) as caught:
        peftlang.graph(model, inputs)
    return caught.value


def test_what_cannot_be_one_graph_is_refused() -> None:
    model = adapted("tiny-llama", "lora")
    cached = refused(model, {"input_ids": IDS, "use_cache": True})
    assert (cached.code, "use_cache=False" in str(cached)) == ("R537", True)
    assert refused(model, {"input_ids": IDS.float()}).code == "R537"
    assert refused(model, [IDS]).code == "R537"
    assert refused(model.to("meta"), PLAIN).code == "R537"
    assert refused(build("tiny-llama"), PLAIN).code == "R505"


def test_the_name_is_no_folder() -> None:
    """A folder of the package has the same name."""
    import peftlang.dataflow.listing

    assert callable(peftlang.graph)
