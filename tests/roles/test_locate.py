"""Every site is found again in whatever graph it runs in, and its values are the module's own."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftlang.dataflow.flow import shape_of
from peftlang.ir.plan import Site
from peftlang.models import PRESETS, example_inputs
from peftlang.sites.locate import locate
from tests.roles.running import Run, made, positions, real_inputs, recorded, watched

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


def check_complete(run: Run, sites: list[Site]) -> None:
    """All of these sites, each with all of its values."""
    assert run.missing == []
    found = run.found
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
    return model, sites, watched(model, sites, real_inputs(model))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_values_are_what_the_modules_take_and_give(preset: str) -> None:
    model, sites, run = one_run(preset)
    seen = seen_by_hooks(model, real_inputs(model))
    check_complete(run, sites)
    compared = set()
    for site in sites:
        first = run.found[site.id][0]
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
    found = run.found
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
def test_training_and_autocast(preset: str, attention: str) -> None:
    model, sites = made(preset, attention)
    inputs = example_inputs(model)
    check_complete(watched(model, sites, inputs, training=True), sites)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_complete(watched(model, sites, inputs, training=True), sites)


def test_a_step_that_reads_the_cache_has_the_whole_of_keys() -> None:
    model, sites = made("tiny-llama")
    ids = torch.randint(3, 150, (1, 6))
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    located = locate(recorded(model, {"input_ids": ids[:, -1:], "past_key_values": cache}), sites)
    core = located.found["model.layers.1.self_attn#attn.core"][0]
    assert located.missing == []
    assert shape_of(core.values["q"])[-2:] in {(1, 8), (2, 8)}
    assert shape_of(core.values["k"]) in {(1, 2, 7, 8), (1, 4, 7, 8)}


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
    run = watched(model, sites, {"x": x})
    check_complete(run, sites)
    assert {len(occurrences) for occurrences in run.found.values()} == {3}
    first, second, _ = run.found["layers.0#block"]
    assert second.values["x"] is first.values["h"]


def test_a_graph_of_other_things_has_no_sites() -> None:
    _, sites = made("tiny-mlp")
    run = watched(nn.Tanh(), sites, {"input": torch.randn(2, 3)})
    assert run.found == {}
    assert run.missing == []


def test_a_product_that_went_elsewhere_is_reported() -> None:
    """The queries are made, and there is no attention: neither may pass as found."""
    from peftlang.models.handwritten import SelfAttention

    class Torn(SelfAttention):
        torn = False

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for project in (self.wants, self.offers, self.carries)
            )
            if self.torn:
                h = q + k + v
            else:
                h = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.mix(h.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    model = Torn(32, 4).eval()
    x = torch.randn(2, 7, 32)
    sites = positions(model, {"x": x})
    model.torn = True
    run = watched(model, sites, {"x": x})
    assert [text.partition(":")[0] for text in run.missing] == ["#attn.core"]
    assert "wants#attn.q" in run.found
