"""What compiling costs: seconds and memory, each measured in a process of its own.

    python -m benchmarks.compile_cost [--only compile,another,resolve,check] [--json]

- `compile`: LoRA on a 12-layer, 768-wide Llama, the first training step included; memory is the
  peak of the process over what it had with the model built.
- `another`: a second LoRA on that model, which then acts alone, its first training step included.
- `resolve`: LoRA's sites in a Llama of 70 billion parameters on the meta device, no weights.
- `check`: `peftlang check` on a file of 200 lines, start-up included; best of five.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

METHOD = """
method lora_{n}(r: int = 8, alpha: float = 16.0) {{
    param A[r, d_x] ~ kaiming_uniform(a = sqrt(5))
    param B[d_h, r] ~ zeros
    position    attn.q, attn.v
    function    delta = B @ (A @ x)
    insertion   parallel
    composition h = h + (alpha / r) * delta
    ensure identity_at_init, mergeable
}}
"""
TARGETS = {
    "compile": (15.0, 1000.0),
    "another": (15.0, 1000.0),
    "resolve": (60.0, 2000.0),
    "check": (0.5, float("inf")),
}
Measured = dict[str, float]


def peak() -> float:
    """The most memory that this process has held, in MB (Linux: ru_maxrss is in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def since(wall: float, cpu: float, memory: float = 0.0) -> Measured:
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak() - memory,
    }


def compiling() -> Measured:
    import torch

    import peftlang
    from benchmarks.common import llama

    model = llama()
    start = time.perf_counter(), time.process_time(), peak()
    peftlang.compile(model, "lora").train()
    ids = torch.ones(1, 64, dtype=torch.long)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return since(*start)


def adding() -> Measured:
    import torch

    import peftlang
    from benchmarks.common import llama

    model = peftlang.compile(llama(), "lora").train()
    ids = torch.ones(1, 64, dtype=torch.long)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    start = time.perf_counter(), time.process_time(), peak()
    peftlang.compile(model, "lora", adapter_name="second", r=4)
    peftlang.set_active(model, "second")
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return since(*start)


def resolving() -> Measured:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from peftlang.lower import build, load
    from peftlang.pipeline import plan, survey

    config = LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    start = time.perf_counter(), time.process_time(), peak()
    made = plan(build(load("lora")), model, survey(model))
    assert len(made.sites) == 160
    return since(*start)


def checking() -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "long.peft"
        methods = [METHOD.format(n=n) for n in range(20)]
        spec.write_text("\n".join("".join(methods).splitlines()[:200]) + "\n")
        return min((_one_check(spec) for _ in range(5)), key=lambda m: m["wall"])


def _one_check(spec: Path) -> Measured:
    def children() -> resource.struct_rusage:
        return resource.getrusage(resource.RUSAGE_CHILDREN)

    before, wall = children(), time.perf_counter()
    done = subprocess.run(  # noqa: S603 -- this very program
        [sys.executable, "-m", "peftlang", "check", str(spec)], check=False, capture_output=True
    )
    assert done.returncode == 0, done
    after = children()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - wall, "cpu": cpu, "memory": after.ru_maxrss / 1024}


PARTS: dict[str, Callable[[], Measured]] = {
    "compile": compiling,
    "another": adding,
    "resolve": resolving,
    "check": checking,
}


def apart(part: str) -> Measured:
    """Measure one part in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.compile_cost", "--part", part]
    done = subprocess.run(  # noqa: S603 -- this very program
        command, check=True, capture_output=True, text=True
    )
    found: Measured = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="of: " + ", ".join(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part]()))
        return
    from benchmarks.common import report

    rows = []
    for part in options.only.split(","):
        measured, (seconds, memory) = apart(part), TARGETS[part]
        rows.append(
            {
                "what": part,
                "wall s": f"{measured['wall']:.2f}",
                "processor s": f"{measured['cpu']:.2f}",
                "at most s": f"{seconds:g}",
                "memory MB": f"{measured['memory']:.0f}",
                "at most MB": f"{memory:g}" if memory < float("inf") else "",
            }
        )
    report("what compiling costs", rows, as_json=options.json)


if __name__ == "__main__":
    main()
