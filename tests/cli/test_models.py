"""The commands that read a model: `sites`, `compile`, `merge`."""

import json
from pathlib import Path

import pytest
import torch

import peftlang as library
from peftlang.models import build
from tests.cli.conftest import Command


def test_sites_of_an_encoder_decoder(peftlang: Command) -> None:
    ran = peftlang("sites", "--model", "tiny-t5")
    assert ran.code == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines()[2:]]
    assert ["cross_attn.q", "decoder.block", "2", "0-1", "32", "32", "4", "x", "8"] in rows
    assert {row[1] for row in rows if row[0] == "attn.q"} == {"encoder.block", "decoder.block"}


def test_sites_as_json_and_one_by_one(peftlang: Command) -> None:
    found = json.loads(peftlang("sites", "--model", "tiny-llama", "--json").out)["sites"]
    queries = [site for site in found if site["role"] == "attn.q"]
    assert [site["layer"] for site in queries] == [0, 1]
    assert queries[0]["weight"] == "model.layers.0.self_attn.q_proj.weight"
    every = peftlang("sites", "--model", "tiny-llama", "--all").out
    assert "model.layers.1.self_attn.q_proj" in every
    assert len(every.splitlines()) == len(found) + 2


def test_compile_writes_what_load_reads(peftlang: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = peftlang("compile", "lora", "--model", "tiny-llama", "-o", out, "--set", "r=4", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["written"] == str(out)
    assert {path.name for path in out.iterdir()} == {
        "adapter.json",
        "adapter.peft",
        "adapter.safetensors",
        "plan.json",
    }
    assert peftlang("check", out / "adapter.peft").code == 0
    tokens = torch.arange(8).reshape(1, 8)
    loaded, plain = library.load(build("tiny-llama"), out), build("tiny-llama")
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=tokens).logits, plain(input_ids=tokens).logits)


def test_a_pass_can_be_printed_before_and_after(peftlang: Command, tmp_path: Path) -> None:
    ran = peftlang(
        "compile",
        "adapter_bias",
        "--model",
        "tiny-bert",
        "-o",
        tmp_path / "out",
        "--print-before",
        "insert",
        "--print-after",
        "insert",
        "--print-after",
        "share",
    )
    assert ran.code == 0, ran.err
    plan, *graphs = (part.split("\n", 1) for part in f"\n{ran.out}".split("\n# ")[1:])
    assert plan[0] == "after share"
    assert "\n  adapter_bias." in plan[1].partition("\ntensors")[2]
    assert [when for when, _ in graphs] == ["before insert", "after insert"] * 2
    for layer in (0, 1):
        place = f"bert.encoder.layer.{layer}.output.dense"
        before, after = (text for _, text in graphs[2 * layer : 2 * layer + 2])
        assert before.startswith(f"{place}:\n")
        assert "\n+ " not in before
        assert "forward(" in before
        assert f"default.adapter_bias.{place}.ffn_down.v" in after


def test_a_pass_can_be_left_out(peftlang: Command, tmp_path: Path) -> None:
    """What prints a pass prints nothing of one that is left out; what is written is the same."""
    options = ["lora", "--model", "tiny-mlp", "--print-after", "simplify", "--seed", "3"]
    with_it = peftlang("compile", *options, "-o", tmp_path / "with")
    without = peftlang("compile", *options, "--without", "simplify", "-o", tmp_path / "without")
    assert (with_it.code, without.code) == (0, 0), without.err
    assert with_it.out.count("# after simplify") == 4
    assert "# after simplify" not in without.out
    one, other = (tmp_path / name / "adapter.safetensors" for name in ("with", "without"))
    assert one.read_bytes() == other.read_bytes()


def test_several_passes_can_be_named(peftlang: Command, tmp_path: Path) -> None:
    options = ["--without", "simplify", "--without", "insert", "-o", tmp_path / "out"]
    ran = peftlang("compile", "lora", "--model", "tiny-mlp", *options)
    assert (ran.code, ran.out) == (2, "")
    assert "the pass `insert` cannot be left out" in ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["lora", "--print-after", "insrt"], "C709", 2),
        (["lora", "--without", "check"], "R524", 2),
        (["lora", "--without", "simplfy"], "R524", 2),
        (["lora", "--at", "cross_attn.q"], "S40", 1),
    ],
)
def test_what_fails_writes_nothing(
    peftlang: Command, tmp_path: Path, arguments: list[str], code: str, exit_code: int
) -> None:
    ran = peftlang("compile", *arguments, "--model", "tiny-llama", "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (exit_code, "")
    assert ran.err.startswith(f"error[{code}")
    assert list(tmp_path.iterdir()) == []


def test_merge_leaves_a_plain_model(peftlang: Command, tmp_path: Path) -> None:
    out, merged = tmp_path / "out", tmp_path / "merged"
    assert peftlang("compile", "lora", "--model", "tiny-llama", "-o", out).code == 0
    ran = peftlang("merge", out, "-o", merged)
    assert ran.code == 0, ran.err
    assert (merged / "config.json").is_file()
    assert peftlang("sites", "--model", merged).code == 0
    again = peftlang("merge", out, "--model", "tiny-llama", "-o", merged)
    assert (again.code, "D604" in again.err) == (1, True)


def test_merge_names_what_it_cannot_fold(peftlang: Command, tmp_path: Path) -> None:
    assert peftlang("compile", "houlsby", "--model", "tiny-llama", "-o", tmp_path / "out").code == 0
    ran = peftlang("merge", tmp_path / "out", "-o", tmp_path / "merged", "--json")
    assert ran.code == 1
    refused = json.loads(ran.out)["refused"]
    assert {site["reason"] for site in refused} == {"`gelu` is not linear"}
    assert "R513" in ran.err
    assert not (tmp_path / "merged").exists()


def test_merge_asks_for_a_base_that_had_no_name(peftlang: Command, tmp_path: Path) -> None:
    library.save(library.compile(build("tiny-llama"), "lora"), tmp_path / "out")
    ran = peftlang("merge", tmp_path / "out", "-o", tmp_path / "merged")
    assert (ran.code, "D606" in ran.err, "--model" in ran.err) == (1, True, True)
