"""What the benchmarks share: the models that they measure, and the table that they print."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

Row = Mapping[str, object]


def llama(layers: int = 12, width: int = 768, vocab: int = 8000) -> LlamaForCausalLM:
    """A Llama of GPT-2's size: 12 layers, 768 wide, 12 heads, random weights, float32."""
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=vocab,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def machine() -> dict[str, object]:
    """Where a number was measured: without this it says nothing."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of two or more values."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def report(title: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows as a table, or as JSON with the machine that they were measured on."""
    if as_json:
        print(json.dumps({"title": title, "machine": machine(), "rows": list(rows)}, indent=2))
        return
    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    table = Table(title=title, caption=where)
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=100).print(table)
