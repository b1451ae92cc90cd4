"""What must not become slow: generous guards; the numbers themselves are in benchmarks/."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule
from transformers import LlamaConfig, LlamaForCausalLM

import peftlang
from benchmarks.compile_cost import METHOD


def test_checking_a_long_file_is_quick_and_loads_no_torch(tmp_path: Path) -> None:
    spec = tmp_path / "long.peft"
    spec.write_text("".join(METHOD.format(n=n) for n in range(20)))
    code = (
        "import sys, time; start = time.process_time()\n"
        f"from peftlang.cli import main; code = main(['check', {str(spec)!r}])\n"
        "assert 'torch' not in sys.modules\n"
        "print(code, time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, seconds = done.stdout.splitlines()[-1].split()
    assert exit_code == "0"
    assert float(seconds) < 2


def llama(layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=32,
        max_position_embeddings=16,
    )
    return LlamaForCausalLM(config)


def seconds_to_run(layers: int) -> float:
    """Processor seconds to compile with LoRA and take a first step.

    A full collection of garbage goes through all that the process holds, which is no cost of the
    model's; it falls into the longer of two measurements.
    """
    model, ids = llama(layers), torch.ones(1, 4, dtype=torch.long)
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        peftlang.compile(model, "lora", r=2).train()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return time.process_time() - start
    finally:
        gc.enable()


@pytest.mark.slow
def test_compiling_grows_with_the_layers_not_faster() -> None:
    seconds_to_run(2)  # what is imported late is not counted
    few, many = seconds_to_run(4), seconds_to_run(12)
    assert many < 6 * few, f"{few:.2f} s for 4 layers, {many:.2f} s for 12"


def test_the_step_that_runs_has_no_operation_but_the_methods_own() -> None:
    """LoRA adds four operations at a site: two products, a scale and a sum."""
    sizes: list[int] = []

    def inner(gm: GraphModule, _inputs: list[object]) -> object:
        sizes.append(sum(n.op.startswith("call") for n in gm.graph.nodes))
        return gm.forward

    ids = torch.ones(1, 4, dtype=torch.long)
    for name in ("attn.q", "attn.q, attn.v"):
        model = llama(2)
        peftlang.compile(model, "lora", r=2, at=name, backend=inner).eval()
        model(input_ids=ids, use_cache=False)
    one_site_a_layer, two_sites_a_layer = sizes
    assert two_sites_a_layer - one_site_a_layer <= 2 * 4
