"""What adapting a model and running it cost beside HF PEFT, in processor time.

    OMP_NUM_THREADS=1 python -m benchmarks.against_hf [--layers 24] [--width 256] [--json]

Each library, method and state of the cache has a process of its own, in which a one-layer model has
been adapted before, so that imports and parsers are not counted. A step is forward and backward.

- `cold`: adapting, with no survey kept (ours alone).
- `adapt`: adapting, the survey read from the user's cache folder.
- `again`: adapting a second model of the kind in the same process.
- `first`: the first step; `second`: the first one of another length; `steady`: one of the later.
- `adapter`: one more adapter, of fifty, which do not act.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

METHODS = {"lora": "LoRA, r = 8 on q, v", "dora": "DoRA, r = 8 on q, v", "ia3": "(IA)³"}
WHAT = ("cold", "adapt", "again", "first", "second", "steady", "adapter")
STEPS = 10
ADAPTERS = 50


def _config(method: str) -> Any:
    import peft

    if method == "ia3":
        names = ["k_proj", "v_proj", "down_proj"]
        return peft.IA3Config(target_modules=names, feedforward_modules=["down_proj"])
    dora = method == "dora"
    return peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], use_dora=dora)


def _ours(method: str) -> tuple[Callable[[Any], Any], Callable[[Any, int], None]]:
    import peftlang

    def more(model: Any, number: int) -> None:
        peftlang.compile(model, method, adapter_name=f"more{number}")
        peftlang.set_active(model, "default")

    return lambda model: peftlang.compile(model, method), more


def _theirs(method: str) -> tuple[Callable[[Any], Any], Callable[[Any, int], None]]:
    import peft

    def more(model: Any, number: int) -> None:
        model.add_adapter(f"more{number}", _config(method))

    return lambda model: peft.get_peft_model(model, _config(method)), more


def measure(library: str, method: str, layers: int, width: int) -> dict[str, float]:
    """Seconds of processor time, by what they were spent on."""
    import torch

    from benchmarks.common import llama

    adapt, more = (_ours if library == "peftlang" else _theirs)(method)

    def step(model: Any, length: int) -> None:
        ids = torch.ones(1, length, dtype=torch.long)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        start = time.process_time()
        made = work()
        return time.process_time() - start, made

    small = adapt(llama(1, 64)).train()
    step(small, 8)
    other, model = llama(layers, width), llama(layers, width)
    found: dict[str, float] = {}
    found["adapt"], other = timed(lambda: adapt(other))
    found["again"], model = timed(lambda: adapt(model))
    model.train()
    found["first"], _ = timed(lambda: step(model, 32))
    found["second"], _ = timed(lambda: step(model, 48))

    def several() -> None:
        for _ in range(STEPS):
            step(model, 48)

    found["steady"] = timed(several)[0] / STEPS
    added = timed(lambda: [more(other, number) for number in range(ADAPTERS)])[0]
    return found | {"adapter": added / ADAPTERS}


def _apart(library: str, method: str, options: argparse.Namespace, cache: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.against_hf", "--part", library, method]
    command += ["--layers", str(options.layers), "--width", str(options.width)]
    done = subprocess.run(  # noqa: S603 -- this very program
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PEFTLANG_CACHE": cache},
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.part:
        library, method = options.part
        print(json.dumps(measure(library, method, options.layers, options.width)))
        return
    from benchmarks.common import report

    rows = []
    for method, title in METHODS.items():
        with tempfile.TemporaryDirectory() as cache:
            cold = _apart("peftlang", method, options, cache)["adapt"]
            ours = _apart("peftlang", method, options, cache) | {"cold": cold}
        theirs = _apart("hf", method, options, "")
        for what in WHAT:
            beside = theirs.get(what)
            rows.append(
                {
                    "method": title,
                    "what": what,
                    "peftlang ms": f"{1000 * ours[what]:.0f}",
                    "HF PEFT ms": "" if beside is None else f"{1000 * beside:.0f}",
                    "ratio": "" if beside is None else f"{ours[what] / beside:.2f}",
                }
            )
    report("beside HF PEFT, processor time", rows, as_json=options.json)


if __name__ == "__main__":
    main()
