"""`peftlang explain`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command

SPEC = """method m(r: int = 4, act: fn = gelu) {
    param A[r, d_x] ~ normal shared across model
    param B[d_h, r] ~ zeros
    position attn.q, ffn.down
    function delta = B @ act(A @ x)
    ensure identity_at_init
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "m.peft"
    path.write_text(SPEC)
    return path


def explained(peftlang: Command, *arguments: object) -> dict[str, Any]:
    ran = peftlang("explain", "--json", *arguments)
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def test_the_five_dimensions(peftlang: Command, spec: Path) -> None:
    (use,) = explained(peftlang, spec)["uses"]
    assert use["dimensions"] == {
        "function": "delta = B @ act(A @ x)",
        "position": "attn.q, ffn.down",
        "insertion": "parallel",
        "composition": "h = h + delta",
        "sharing": "A across model",
    }
    assert use["trains"] == ["A[r, d_x] across model", "B[d_h, r]"]
    assert use["promises"] == ["identity_at_init"]


def test_each_dimension_can_be_replaced(peftlang: Command, spec: Path) -> None:
    options = ["--set", "r=2", "--set", "act=relu", "--at", "attn.o in layers[-1]"]
    options += ["--with", "insertion=sequential", "--with", "composition=h = h - delta"]
    (use,) = explained(peftlang, spec, *options)["uses"]
    assert use["arguments"] == {"r": 2, "act": "relu"}
    assert use["dimensions"]["position"] == "attn.o in layers[-1]"
    assert use["dimensions"]["insertion"] == "sequential"
    assert use["dimensions"]["composition"] == "h = h - delta"


def test_text_says_the_same(peftlang: Command, spec: Path) -> None:
    ran = peftlang("explain", spec, "--set", "r=2")
    assert ran.code == 0
    assert ran.out.startswith("m(r = 2, act = gelu)\n")
    assert "  function     delta = B @ act(A @ x)\n" in ran.out


def test_on_a_model(peftlang: Command) -> None:
    on = explained(peftlang, "lora", "--model", "tiny-llama", "--set", "r=4")["on"]
    # q: 32 -> 32 and v: 32 -> 16, in each of two layers, and r (d_x + d_h) numbers at each.
    trained = 2 * (4 * (32 + 32) + 4 * (32 + 16))
    assert on["trainable"]["total"] == trained
    assert on["trainable"]["bytes"] == 4 * trained
    assert on["trainable"]["share"] == trained / on["trainable"]["of"]
    assert [(row["role"], row["sites"], row["layers"]) for row in on["sites"]] == [
        ("attn.q", 2, "0-1"),
        ("attn.v", 2, "0-1"),
    ]
    # Two numbers multiplied and added are two operations; products dominate the rest.
    assert 2 * trained <= on["per_token"]["flops"] <= 2.5 * trained
    assert on["per_token"]["activation_bytes"] > 0


def test_on_a_model_as_text(peftlang: Command) -> None:
    ran = peftlang("explain", "lora", "--model", "tiny-llama")
    assert ran.code == 0
    assert "1,792 numbers, 7.0 KiB" in ran.out
    assert "model.layers" in ran.out


TAPPED = """method look() {
    tap   t[n_t, d_t] = block.h in text_model in layers[layer]
    param U[d_h, d_t] ~ zeros
    position block in vision_model
    composition h = h + U @ sum(t, over n_t)
}
"""


@pytest.mark.parametrize(
    ("method", "preset", "region", "module", "reason", "names"),
    [
        ("lora", "tiny-llama", "module", "model.layers.*.self_attn.q_proj", "border", ["h"]),
        ("prefix", "tiny-llama", "operation", "model.layers.*.self_attn", "within", ["k", "v"]),
        ("prefix", "tiny-mlp", "inside", "body.*.mixing", "between", ["k", "v"]),
        ("prompt_tuning", "tiny-llama", "call", "", "arguments", []),
        ("look", "tiny-clip", "whole", "", "ahead", ["text_model.encoder.layers.0#block"]),
    ],
)
def test_where_it_runs_and_why_in_no_less(
    peftlang: Command,
    tmp_path: Path,
    method: str,
    preset: str,
    region: str,
    module: str,
    reason: str,
    names: list[str],
) -> None:
    spec = tmp_path / "look.peft"
    spec.write_text(TAPPED)
    arguments = (spec if method == "look" else method, "--model", preset)
    first, *_ = explained(peftlang, *arguments)["on"]["regions"]
    assert (first["region"], first["module"]) == (region, module)
    assert first["sites"] == (1 if region == "call" else 2)
    assert first["why"] == {"kind": reason, "names": names}
    text = peftlang("explain", *arguments).out
    assert all(f"`{name}`" in text for name in names)
    assert "why in no less" in text


def test_each_use_has_its_own_regions(peftlang: Command) -> None:
    rows = explained(peftlang, "unipelt", "--model", "tiny-gpt2")["on"]["regions"]
    found = {(row["use"], row["region"], row["operation"]) for row in rows}
    assert found == {
        ("gated_lora", "module", ""),
        ("gated_prefix", "operation", "scaled_dot_product_attention"),
        ("gated_adapter", "module", ""),
    }


def test_a_code(peftlang: Command) -> None:
    ran = peftlang("explain", "T201")
    assert ran.code == 0
    assert ran.out.startswith("T201: ")
    assert "Mended:" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["nosuch"], "D601", 2),
        (["lora", "--set", "r16"], "C702", 2),
        (["lora", "--with", "insert=parallel"], "C705", 2),
        (["lora", "--model", "tiny-lama"], "C701", 2),
        (["lora", "--set", "rank=16"], "", 1),
        (["lora", "--at", "attn..q"], "", 1),
        (["lora", "--at", "cross_attn.q", "--model", "tiny-llama"], "S40", 1),
    ],
)
def test_what_is_wrong_is_said(
    peftlang: Command, arguments: list[str], code: str, exit_code: int
) -> None:
    ran = peftlang("explain", *arguments)
    assert (ran.code, ran.out) == (exit_code, "")
    assert ran.err.startswith(f"error[{code}")
