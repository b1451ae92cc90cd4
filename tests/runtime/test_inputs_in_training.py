"""Values that come with a call, under the Hugging Face `Trainer`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import peftlang
from peftlang.models import PRESETS

pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]
SPEC = """
method m(n: int = 3) {
    input task : index(n)
    param S[n, d_h] ~ zeros

    position ffn
    composition h = h + S[task]
}
"""


class Rows(Dataset[dict[str, Tensor]]):
    """Rows of random tokens, each with its task where the caller gives tasks."""

    def __init__(self, tasks: tuple[int, ...] | None) -> None:
        self.ids = torch.randint(3, 160, (4, 8), generator=torch.Generator().manual_seed(0))
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {"input_ids": self.ids[index], "labels": self.ids[index]}
        return row if self.tasks is None else row | {"task": torch.tensor(self.tasks[index])}


def moved(model: nn.Module) -> list[bool]:
    """Which tasks' rows of the table have left zero."""
    (table,) = peftlang.adapters(model)["default"].parameters().values()
    return [bool(row.any()) for row in table]


def test_a_column_of_the_data_or_a_value_around_the_training(tmp_path: Path) -> None:
    whole = PRESETS["tiny-llama"]
    small = replace(whole, options=(whole.options or {}) | {"num_hidden_layers": 1})
    model = peftlang.compile(small.build(), SPEC)

    def train(tasks: tuple[int, ...] | None) -> Any:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        return Trainer(model, arguments, train_dataset=Rows(tasks)).train()

    train((2, 2, 0, 2))
    assert moved(model) == [True, False, True]
    with peftlang.inputs(model, task=1):
        train(None)
    assert moved(model) == [True, True, True]
    with pytest.raises(peftlang.PeftError, match="task") as error:
        train(None)
    assert error.value.code == "R503"
