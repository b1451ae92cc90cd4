"""Prefix tuning: PEFT's prefix lies in the cache and moves positions, and ours moves none."""

import math
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import FalconConfig, FalconForCausalLM

import peftlang
from peftlang import PeftError
from peftlang.interop.positions import turns
from peftlang.interop.prefixes import KEY, cores, split
from peftlang.interop.table import TABLE
from peftlang.models import build
from peftlang.pipeline import survey
from tests.interop.hf import relative, stored, trained
from tests.methods.harness import randomise

IDS = torch.arange(10).reshape(2, 5) + 20
PADDED = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def prefixed(preset: str, **options: Any) -> Any:
    """PEFT's model with a prefix away from where it starts."""
    config = peft.PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM", **options)
    return trained(config, lambda: build(preset))


def logits(model: Any, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, attention_mask=mask).logits
    return found if mask is None else found[mask.bool()]


def generated(model: Any) -> Tensor:
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found: Tensor = model.generate(input_ids=IDS, attention_mask=PADDED, **options)
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt-neox"])
def test_a_prefix_computes_the_same_and_comes_back(preset: str, tmp_path: Path) -> None:
    """Grouped keys that turn whole, and keys of which a part turns."""
    theirs = prefixed(preset)
    folder = stored(theirs, tmp_path / "hf")
    ours = peftlang.from_hf(build(preset), folder)
    assert relative(logits(theirs), logits(build(preset))) > 0.1
    assert relative(logits(ours, PADDED), logits(theirs, PADDED)) < 2e-6
    if preset == "tiny-llama":
        assert torch.equal(generated(ours), generated(theirs))
    back = peftlang.to_hf(ours, tmp_path / "back")
    before, after = tensors(folder), tensors(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    configs = [peft.PeftConfig.from_pretrained(each).to_dict() for each in (folder, back)]
    assert configs[0] == configs[1]


def test_ours_becomes_theirs(tmp_path: Path) -> None:
    """What comes back has its keys as they lay in the cache, and computes the same."""
    ours = peftlang.compile(build("tiny-llama"), "prefix", l=5).eval()
    randomise(peftlang.adapters(ours)["default"].parameters())
    folder = peftlang.to_hf(ours, tmp_path / "hf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(build("tiny-llama"), folder).eval()
    assert relative(logits(theirs), logits(ours)) < 2e-6
    peftlang.save(peftlang.from_hf(build("tiny-llama"), folder), tmp_path / "saved")
    again = peftlang.load(build("tiny-llama"), tmp_path / "saved")
    assert relative(logits(again), logits(ours)) < 2e-6
    once = tensors(peftlang.to_hf(again, tmp_path / "again"))
    assert all(torch.equal(value, once[key]) for key, value in tensors(folder).items())
    part = peftlang.compile(build("tiny-llama"), "prefix", at="attn.core in layers[0]")
    with pytest.raises(PeftError, match="every layer") as caught:
        peftlang.to_hf(part, tmp_path / "part")
    assert caught.value.code == "I909"
    assert not (tmp_path / "part").exists()


def test_a_projection_is_stored_as_what_it_makes(tmp_path: Path) -> None:
    """The network of `prefix_projection` stays behind, so that the folder is as any other."""
    theirs = prefixed("tiny-llama", prefix_projection=True, encoder_hidden_size=16)
    folder = stored(theirs, tmp_path / "hf")
    base = build("tiny-llama")
    forms = TABLE["PREFIX_TUNING"].forms
    form, found = split(tensors(folder)[KEY], forms, cores(survey(base).sites), base)
    encoder = theirs.prompt_encoder["default"]
    with torch.no_grad():
        made = encoder(torch.arange(6)).reshape(6, 2, 2, 2, 8)
    assert set(form.tensors) == {"P_k", "P_v"}
    for layer, own in enumerate(found):
        assert torch.equal(own["P_k"], made[:, layer, 0])
        assert torch.equal(own["P_v"], made[:, layer, 1])


def test_turns_are_those_of_the_paper() -> None:
    """Su et al. 2021, eq. 15: pair j turns by the position times its frequency."""
    found = turns(build("tiny-llama"), 7)
    size = len(found[0])
    for pair in range(size // 2):
        angle = 7 * 10000 ** (-2 * pair / size)
        assert abs(float(found[0][pair, pair]) - math.cos(angle)) < 1e-6
        assert abs(float(found[-1][pair + size // 2, pair]) - math.sin(angle)) < 1e-6


@pytest.mark.parametrize(
    ("preset", "why"),
    [("tiny-gpt2", "are learnt"), ("tiny-t5", "other positions"), ("tiny-mistral", "16 tokens")],
)
def test_models_on_which_the_two_do_not_agree(preset: str, why: str, tmp_path: Path) -> None:
    task = "SEQ_2_SEQ_LM" if preset == "tiny-t5" else "CAUSAL_LM"
    config = peft.PrefixTuningConfig(
        num_virtual_tokens=3, task_type=task, num_transformer_submodules=1
    )
    folder = stored(trained(config, lambda: build(preset)), tmp_path / "theirs")
    with pytest.raises(PeftError, match=why) as caught:
        peftlang.from_hf(build(preset), folder)
    assert caught.value.code == "I903"
    assert "moves none" in (caught.value.help or "")


def test_a_prefix_that_peft_has_not_on_this_model(tmp_path: Path) -> None:
    ours = peftlang.compile(build("tiny-gpt2"), "prefix", l=3)
    with pytest.raises(PeftError, match="no such prefix") as caught:
        peftlang.to_hf(ours, tmp_path / "hf")
    assert caught.value.code == "I909"
    assert not (tmp_path / "hf").exists()


def test_biases_of_positions_are_seen_by_running(tmp_path: Path) -> None:
    """ALiBi turns nothing, and PEFT's prefix is biased by its places."""

    def falcon() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return FalconForCausalLM(
                FalconConfig(
                    vocab_size=64,
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    alibi=True,
                    multi_query=False,
                    bos_token_id=1,
                    eos_token_id=2,
                )
            ).eval()

    config = peft.PrefixTuningConfig(num_virtual_tokens=6, task_type="CAUSAL_LM")
    folder = stored(trained(config, falcon), tmp_path / "hf")
    model = falcon()
    with pytest.raises(PeftError, match="outputs differ") as caught:
        peftlang.from_hf(model, folder)
    assert caught.value.code == "I903"
    assert peftlang.adapters(model) == {}


def test_folders_that_hold_no_prefix(tmp_path: Path) -> None:
    folder = stored(prefixed("tiny-llama"), tmp_path / "hf")
    with pytest.raises(PeftError, match="ask for") as caught:
        peftlang.from_hf(build("tiny-gpt-neox"), folder)
    assert caught.value.code == "I907"
