"""Whole models: references of them, what they show to be wrong, and how it is shown again."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from peftlang.diagnostics import PeftError
from peftlang.verifying import Subject, load_reference, replay, verify
from peftlang.verifying.adapted_model import AdaptedModel
from peftlang.verifying.checks.whole_model_checks import rows_on_a_model
from peftlang.verifying.references.whole_model_reference import equals_model
from peftlang.verifying.report import Row

LORA = """
def reference_model(model, sites):
    def adapted(site):
        def hook(module, given, h):
            change = given[0] @ site.params.A.T @ site.params.B.T
            return h + site.alpha / site.r * change
        return hook
    for site in sites:
        model.get_submodule(site.path).register_forward_hook(adapted(site))
    return model
"""
PROMPT = """
import torch

def reference_model(model, sites):
    (site,) = sites
    def run(input_ids, **rest):
        tokens = model.get_input_embeddings()(input_ids)
        prompt = site.params.P.expand(len(tokens), -1, -1)
        return model(inputs_embeds=torch.cat([prompt, tokens], 1)).logits[:, site.l :]
    return run
"""
BITFIT = """
import torch

def trained(model):
    return [n for n, _ in model.named_parameters() if n.endswith(".bias")]

def halved(tensors):
    return {name: value / 2 for name, value in tensors.items()}

def reference_model(model, trained):
    return lambda **inputs: torch.func.functional_call(model, trained, kwargs=inputs)
"""


@cache
def adapted(spec: str, model: str) -> AdaptedModel:
    return AdaptedModel(Subject(spec), model)


@pytest.fixture
def held(tmp_path: Path) -> Callable[..., list[Row]]:
    """Rows of comparing with a reference."""

    def rows(spec: str, model: str, text: str) -> list[Row]:
        path = tmp_path / "ref.py"
        path.write_text(text)
        return rows_on_a_model(adapted(spec, model), load_reference(path), generic=False)

    return rows


@pytest.mark.parametrize(
    ("spec", "model", "text", "old", "new"),
    [
        ("lora", "tiny-llama", LORA, "site.alpha / site.r", "2.001 * site.alpha / site.r"),
        ("lora", "tiny-llama", LORA, "given[0] @", "given[0].detach() @"),
        ("prompt_tuning", "tiny-llama", PROMPT, "[prompt, tokens]", "[2 * prompt, tokens]"),
        ("bitfit", "tiny-bert", BITFIT, "model, trained, k", "model, halved(trained), k"),
        ("bitfit", "tiny-bert", BITFIT, '".bias"', '"e.bias"'),
    ],
)
def test_a_right_reference_agrees_and_a_wrong_one_does_not(
    held: Callable[..., list[Row]], spec: str, model: str, text: str, old: str, new: str
) -> None:
    rows = held(spec, model, text)
    assert rows
    assert [row.reason for row in rows if not row.holds] == []
    assert old in text
    assert not all(row.holds for row in held(spec, model, text.replace(old, new)))


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("V802", "def reference_model(base): return base"),
        ("V803", "def reference_model(model): return model.nothing"),
        ("V803", "def reference_model(model): return lambda **i: i['nothing']"),
        ("V804", "def reference_model(model): return 1"),
        ("V804", "def reference_model(model): return lambda **i: None"),
        ("V805", "def reference_model(model): return lambda **i: model(**i).logits[:, 1:]"),
        ("V806", "def reference_model(model): return lambda **i: model(**i).logits / 0"),
        ("V807", "def reference_model(model): return model"),
        ("V804", "def trained(model): return {'nothing'}"),
    ],
)
def test_what_is_no_reference(held: Callable[..., list[Row]], code: str, body: str) -> None:
    with pytest.raises(PeftError) as caught:
        held("lora", "tiny-llama", body)
    assert caught.value.code == code


def test_a_spec_of_the_base_s_own_parameters_is_held_to_another() -> None:
    bitfit = adapted("bitfit", "tiny-bert")
    assert equals_model(bitfit, load_reference("bitfit")) < 1e-6
    with pytest.raises(PeftError) as caught:
        equals_model(bitfit, load_reference("norm_tuning"))
    assert caught.value.code == "V811"


def test_a_reference_says_something_of_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "ref.py"
    path.write_text("def reference(h):\n    return h\n")
    with pytest.raises(PeftError) as caught:
        verify("bitfit", against=path, whole=False)
    assert caught.value.code == "V802"
    path.write_text("def reference_model(model):\n    return model\n")
    spec = 'method m { param P[d_h] ~ zeros position "nowhere.*" composition h = h + P }'
    with pytest.raises(PeftError) as caught:
        verify(spec, against=path, whole=False, examples=2)
    assert caught.value.code == "V814"


def test_a_row_of_a_whole_model_has_a_script(tmp_path: Path) -> None:
    path = tmp_path / "ref.py"
    path.write_text(LORA.replace("site.r * change", "2 * change"))
    report = verify("lora", against=path, whole=False, examples=1, args={"r": 4})
    (row,) = (row for row in report.rows if "tiny-llama" in row.property)
    assert not row.holds
    text = report.script(row)
    assert f"replay('lora', 'equals ref.py', against={str(path)!r}, **case)" in text
    assert "'model': 'tiny-llama'" in text
    assert row.failure is not None
    again = replay("lora", "equals ref.py", against=path, model="tiny-llama", args={"r": 4})
    assert str(again) == str(row.failure.difference)


UNREAD = """
method m {
    param g[d_h] ~ zeros
    param a[d_h] ~ zeros
    param z[d_h] ~ ones
    position    attn.o
    composition h = h + g + stop_gradient(z)
    penalty     sum(a * a)
    ensure      token_local
}
"""


def test_what_the_penalty_alone_reads_learns_from_it_and_nothing_else_is_excused() -> None:
    here = AdaptedModel(Subject(UNREAD), "tiny-llama")
    rows = {row.property.partition(" (")[0]: row for row in rows_on_a_model(here)}
    row = rows["gradients reach every tensor"]
    assert not row.holds
    assert row.reason.endswith(".z`, nor 1 more"), "there are two layers"
    assert rows["no token reads a later one"].holds


LEAK = """
method m {
    param g[d_h] ~ ones
    position    attn
    composition h = h + g * resid
    ensure      causal
}
"""


def test_a_later_token_that_is_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = AdaptedModel(Subject(LEAK), "tiny-llama")
    run = here.run
    titles = {row.property.partition(" (")[0]: row for row in rows_on_a_model(here)}
    assert titles["no token reads a later one"].holds

    def leaks(inputs: object = None) -> torch.Tensor:
        found = run(inputs)  # type: ignore[arg-type]
        return found + found[:, -1:]

    monkeypatch.setattr(here, "run", leaks)
    rows = {row.property.partition(" (")[0]: row for row in rows_on_a_model(here)}
    assert not rows["no token reads a later one"].holds


def test_what_a_model_cannot_show_is_said() -> None:
    spec = (
        "method m { param c[d_h] ~ normal position attn.q composition h = h + c ensure mergeable }"
    )
    rows = rows_on_a_model(AdaptedModel(Subject(spec), "tiny-llama"))
    (row,) = (row for row in rows if row.property.startswith("merged"))
    assert (row.how, row.examples) == ("none", 0)
    assert "no bias" in row.reason
