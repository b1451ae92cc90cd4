"""What cannot be adapted, or left out, is refused by its code, and the model stays as it was."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build

AHEAD = """method ahead {
    tap   v[n] = attn.v.h in layers[layer]
    param g[d_h, n] ~ zeros

    position    attn.q
    function    delta = g @ v
    composition h = h + delta
}
"""


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


INPUTS = {"x": torch.ones(2, 8)}


def compile_at(model: nn.Module, place: str, **options: object) -> nn.Module:
    return peftlang.compile(model, "lora", r=2, at=f'"{place}"', example_inputs=INPUTS, **options)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return torch.jit.trace(module, INPUTS["x"])


def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(PeftError, match="the model is scripted") as refused:
        compile_at(scripted(TwoLayers()), "up")
    assert refused.value.code == "R522"


def test_a_scripted_part_is_refused_for_the_first_adapter_and_for_the_next() -> None:
    model = compile_at(TwoLayers(), "up")
    model.down = scripted(model.down)
    for target in (model, TwoLayers()):
        target.down = model.down
        with pytest.raises(PeftError, match="`down` is scripted") as refused:
            compile_at(target, "down", adapter_name="next")
        assert refused.value.code == "R522"
    assert list(peftlang.adapters(model)) == ["default"]


class Final(nn.Linear):
    """A class of which there is no other."""

    def __init_subclass__(cls) -> None:
        raise TypeError("Final is final")


def test_a_class_that_has_no_others_is_refused() -> None:
    model = TwoLayers()
    model.up = Final(8, 8)
    with pytest.raises(PeftError, match="`up` is a Final") as refused:
        compile_at(model, "up")
    assert refused.value.code == "R522"
    assert type(model) is TwoLayers


@pytest.mark.parametrize(
    ("name", "said"), [("insert", "`insert` cannot be left out"), ("insrt", "no pass `insrt`")]
)
def test_a_pass_that_cannot_be_left_out_is_refused(name: str, said: str) -> None:
    with pytest.raises(PeftError, match=said) as refused:
        peftlang.compile(build("tiny-llama"), "lora", without=[name])
    assert refused.value.code == "R524"
    assert refused.value.help


def test_one_graph_takes_no_cache(tmp_path: Path) -> None:
    (tmp_path / "ahead.peft").write_text(AHEAD)
    model = peftlang.compile(build("tiny-llama"), tmp_path / "ahead.peft").eval()
    tokens = torch.arange(6)[None]
    assert model(tokens, use_cache=False).logits.shape[1] == 6
    from transformers import DynamicCache

    with pytest.raises(PeftError, match="takes no DynamicCache") as refused:
        model(tokens, past_key_values=DynamicCache())
    assert refused.value.code == "R526"
