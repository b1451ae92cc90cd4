"""Every site is found again in whatever graph it runs in, and its values are the module's own."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftlang.ir.plan import Site
from peftlang.models import PRESETS, example_inputs
from tests.roles.running import Run, made, positions, real_inputs, watched

# Dynamo's word on a cache inside transformers' Mamba.
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NEEDED = {
    "attn": {"x", "h", "resid"},
    "cross_attn": {"x", "h", "resid"},
    "ffn": {"x", "h", "resid"},
    "block": {"x", "h"},
    "embed": {"h", "W"},
    "ffn.act": {"h"},
    **{f"expert.{part}": {"W"} for part in ("up", "gate", "down")},
    "attn.core": {"x", "q", "k", "v", "h"},
    "cross_attn.core": {"x", "q", "k", "v", "h"},
}
KINDS = ["tiny-llama", "tiny-gpt2", "tiny-bert", "tiny-t5", "tiny-vit", "tiny-mixtral"]


def compiled(model: nn.Module, inputs: dict[str, Any], **options: Any) -> Any:
    return lambda backend: torch.compile(model, backend=backend, **options)(**inputs)


def check_complete(run: Run, sites: list[Site]) -> None:
    """All of these sites, each with all of its values."""
    assert run.missing() == []
    found = run.found()
    assert {site.id for site in sites} <= set(found)
    for occurrences in found.values():
        for occurrence in occurrences:
            needed = NEEDED.get(occurrence.site.role, {"x", "h", "W"})
            assert needed <= set(occurrence.values), occurrence.site.id
            assert all(occurrence.readers.get(name, (1,)) for name in needed)


def seen_by_hooks(model: nn.Module, inputs: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """First tensor in and first tensor out of each module, from a run in plain Python."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for path, module in model.named_modules():

        def hook(_module: Any, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
            out = out[0] if isinstance(out, tuple) else out
            if given and isinstance(out, Tensor):
                seen.setdefault(path, (given[0].clone(), out.clone()))

        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return seen


@functools.cache
def one_run(preset: str) -> tuple[nn.Module, list[Site], Run]:
    model, sites = made(preset)
    return model, sites, watched(model, sites, compiled(model, real_inputs(model)))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_values_are_what_the_modules_take_and_give(preset: str) -> None:
    model, sites, run = one_run(preset)
    seen = seen_by_hooks(model, real_inputs(model))
    check_complete(run, sites)
    compared = set()
    for site in sites:
        first = run.found()[site.id][0]
        if site.path not in seen or isinstance(
            model.get_submodule(site.path), nn.MultiheadAttention
        ):
            continue
        given, result = seen[site.path]
        if site.role in {"linear", "head", "norm", "block"}:
            torch.testing.assert_close(run.value(first, "x"), given, **CLOSE)
            torch.testing.assert_close(run.value(first, "h"), result, **CLOSE)
        elif site.role == "ffn.act":
            torch.testing.assert_close(run.value(first, "h").reshape(given.shape), given, **CLOSE)
        elif type(model.get_submodule(site.path)) is nn.Embedding:
            torch.testing.assert_close(run.value(first, "h"), result, **CLOSE)
        compared.add(site.role)
    assert {"linear", "norm", "block", "head"} <= compared


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_sub_layers_add_to_the_stream(preset: str) -> None:
    """The sub-layers' contributions, added to what comes in, make what the layer gives out."""
    _, sites, run = one_run(preset)
    found = run.found()
    for block in (site for site in sites if site.role == "block"):
        parts = [
            found[site.id][0]
            for site in sites
            if site.role in {"attn", "cross_attn", "ffn"}
            and (site.stack, site.layer) == (block.stack, block.layer)
        ]
        for part in parts:
            stream = run.value(part, "resid")
            reader = part.readers["resid"][0]
            others = [run.value(p, "h") for p in parts if p.readers["resid"][0] is reader]
            total = stream + sum(others)
            torch.testing.assert_close(run.values[reader].reshape(total.shape), total, **CLOSE)
    assert any(site.role == "attn" for site in sites) or preset == "tiny-mamba"


@pytest.mark.parametrize(
    ("preset", "attention"),
    [("tiny-llama", "sdpa"), ("tiny-vit", "sdpa"), ("tiny-mixtral", "sdpa"), ("tiny-t5", "eager")],
)
def test_training_autocast_and_symbolic_sizes(preset: str, attention: str) -> None:
    model, sites = made(preset, attention)
    inputs = example_inputs(model)
    model.train()
    check_complete(watched(model, sites, compiled(model, inputs), gradients=True), sites)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_complete(watched(model, sites, compiled(model, inputs), gradients=True), sites)
    model.eval()
    check_complete(watched(model, sites, compiled(model, inputs, dynamic=True)), sites)


@pytest.mark.parametrize("preset", [*KINDS, "tiny-mamba", "tiny-mlp"])
def test_one_layer_in_a_frame_of_its_own(preset: str) -> None:
    model, sites = made(preset)
    for stack in sorted({site.stack for site in sites if site.stack}):
        path = f"{stack}.1"
        layer = model.get_submodule(path)

        def call(backend: Any, layer: nn.Module = layer) -> None:
            layer.compile(backend=backend)
            model(**example_inputs(model))

        run = watched(model, sites, call)
        layer._compiled_call_impl = None
        inside = [s for s in sites if s.path == path or s.path.startswith(f"{path}.")]
        check_complete(run, inside)
        assert set(run.found()) == {site.id for site in inside}


@pytest.mark.parametrize("preset", ["tiny-t5", "tiny-bart", "tiny-whisper"])
def test_the_encoder_alone(preset: str) -> None:
    model, sites = made(preset)
    encoder = model.get_encoder()  # type: ignore[operator]
    inputs = {k: v for k, v in example_inputs(model).items() if k.startswith("input_")}
    run = watched(model, sites, compiled(encoder, inputs))
    inside = [site for site in sites if site.side == "encoder"]
    check_complete(run, inside)
    assert set(run.found()) == {site.id for site in inside}


@pytest.mark.parametrize(
    ("preset", "cache"),
    [("tiny-llama", "dynamic"), ("tiny-gpt2", "static"), ("tiny-t5", "static")],
)
def test_every_step_of_generation(preset: str, cache: str) -> None:
    model, sites = made(preset)
    ids = torch.randint(3, 150, (2, 7))
    forward = type(model).forward

    def call(backend: Any) -> None:
        model.forward = torch.compile(forward.__get__(model), backend=backend)
        model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=4,
            do_sample=False,
            cache_implementation=cache,
            disable_compile=True,
        )

    run = watched(model, sites, call)
    del model.forward
    assert len(run.located) > 1
    cached = {s.weight for s in sites if s.role in {"cross_attn.k", "cross_attn.v"}}
    for located in run.located:
        step = Run([located], run.values)
        decoder = [s for s in sites if s.side != "encoder"]
        fresh = [s for s in decoder if s.weight not in cached or s.role == "embed"]
        check_complete(step, fresh)


def test_a_step_that_reads_the_cache_has_the_whole_of_keys() -> None:
    model, sites = made("tiny-llama")
    ids = torch.randint(3, 150, (1, 6))
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    step = {"input_ids": ids[:, -1:], "past_key_values": cache}
    run = watched(model, sites, compiled(model, step))
    core = run.found()["model.layers.1.self_attn#attn.core"][0]
    assert run.value(core, "q").shape == (1, 4, 1, 8)
    assert run.value(core, "k").shape in {(1, 2, 7, 8), (1, 4, 7, 8)}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-bert"])
def test_bodies_of_checkpoints(preset: str) -> None:
    model, sites = made(preset)
    model.train()
    model.activation_checkpointing_enable()  # type: ignore[operator]
    run = watched(model, sites, compiled(model, example_inputs(model)), gradients=True)
    assert len(run.located) == 3
    check_complete(run, sites)
    outer = set(run.located[0].found)
    assert not any(site.layer is not None for site in sites if site.id in outer)


class Broken(nn.Module):
    """A layer whose feed-forward branch is traced apart from its attention."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.layer = whole
        self.breaks = False

    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self.layer
        x = x + layer.mixing(layer.before_mixing(x))
        if self.breaks:
            torch._dynamo.graph_break()
        return x + layer.thinking(layer.before_thinking(x))  # type: ignore[no-any-return]


def test_a_graph_break_inside_a_layer() -> None:
    from peftlang.models.handwritten import Layer

    model = nn.Sequential(Broken(Layer(32, 4, 88))).eval()
    x = torch.randn(2, 7, 32)
    sites = positions(model, {"input": x})
    model[0].breaks = True  # type: ignore[assignment]
    run = watched(model, sites, lambda backend: torch.compile(model, backend=backend)(x))
    assert len(run.located) == 2
    assert run.missing() == []
    found = run.found()
    for site in sites:
        if site.role != "block":
            assert len(found[site.id]) == 1, site.id
            needed = NEEDED.get(site.role, {"x", "h", "W"})
            assert needed <= set(found[site.id][0].values), site.id
    (block,) = (found[site.id][0] for site in sites if site.role == "block")
    assert set(block.values) == {"h"}


def test_shared_layers_run_several_times() -> None:
    from peftlang.models.handwritten import Layer

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer(32, 4, 88)])

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.layers[0](x)
            return x

    model = Again().eval()
    x = torch.randn(2, 7, 32)
    sites = positions(model, {"x": x})
    run = watched(model, sites, lambda backend: torch.compile(model, backend=backend)(x))
    check_complete(run, sites)
    assert {len(occurrences) for occurrences in run.found().values()} == {3}
    first, second, _ = run.found()["layers.0#block"]
    assert second.values["x"] is first.values["h"]


def test_a_graph_of_other_things_has_no_sites() -> None:
    model, sites = made("tiny-mlp")

    def loss(scores: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(scores, torch.zeros(2, dtype=torch.long))

    run = watched(model, sites, lambda b: torch.compile(loss, backend=b)(torch.randn(2, 3)))
    assert run.found() == {}
    assert run.missing() == []


def test_a_product_that_went_elsewhere_is_reported() -> None:
    """The queries run in one graph, attention in the next: neither may pass as found."""
    from peftlang.models.handwritten import SelfAttention

    class Torn(SelfAttention):
        torn = False

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for project in (self.wants, self.offers, self.carries)
            )
            if self.torn:
                torch._dynamo.graph_break()
            h = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.mix(h.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    model = Torn(32, 4).eval()
    x = torch.randn(2, 7, 32)
    sites = positions(model, {"x": x})
    model.torn = True
    run = watched(model, sites, lambda backend: torch.compile(model, backend=backend)(x))
    assert [text.partition(":")[0] for text in run.missing()] == ["#attn.core"]
    assert "wants#attn.q" in run.found()
