"""Two processes that share a model: what they find is compared with what one process finds.

Arguments: rank, a file for the processes to meet in, a folder. The first process prints, by the
name of each check, the largest error, or the code of the refusal.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import peftlang
from peftlang.models import build

IDS = torch.arange(28).view(4, 7) % 90 + 5
PROJECTIONS = "attn.q, attn.k, attn.v, attn.o, ffn.up, ffn.gate, ffn.down"
CHECKS: dict[str, Callable[[], float | str]] = {}

rank, meeting, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def check(function: Callable[[], float | str]) -> Callable[[], float | str]:
    CHECKS[function.__name__] = function
    return function


def base() -> Any:
    return build("tiny-llama")


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return peftlang.adapters(model)["default"].parameters()


def whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def moved(model: nn.Module) -> Any:
    """The adapter away from its start, by an amount that is the same in every process."""
    for number, (_, parameter) in enumerate(sorted(parameters(model).items())):
        shape = tuple(parameter.shape)
        change = torch.randn(shape, generator=torch.Generator().manual_seed(number)) * 0.1
        value = whole(parameter.detach()) + change
        if hasattr(parameter, "device_mesh"):
            value = torch.distributed.tensor.distribute_tensor(
                value, parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        with torch.no_grad():
            parameter.copy_(value)
    return model


def adapted(model: nn.Module, spec: str = "lora", **options: Any) -> Any:
    return peftlang.compile(model, spec, **options)


def sharded(model: Any, **options: Any) -> Any:
    for layer in model.model.layers:
        fully_shard(layer, mesh=MESH, **options)
    return fully_shard(model, mesh=MESH, **options)


def parallel(model: Any) -> Any:
    styles = dict.fromkeys(("q", "k", "v"), ColwiseParallel) | {"o": RowwiseParallel}
    places = {f"self_attn.{n}_proj": style for n, style in styles.items()}
    places |= {f"mlp.{n}_proj": ColwiseParallel for n in ("gate", "up")}
    places |= {"mlp.down_proj": RowwiseParallel}
    layers = range(len(model.model.layers))
    plan = {f"model.layers.{i}.{path}": style() for i in layers for path, style in places.items()}
    return parallelize_module(model, MESH, plan)


def by_plan() -> Any:
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(tp_plan="auto")
    return transformers.LlamaForCausalLM.from_pretrained(folder / "base", distributed_config=config)


def error_of(model: Any, spec: str = "lora", *, split: bool, **options: Any) -> float:
    """The largest error of logits and gradients, of a model that has its adapter ``moved``."""
    one = moved(adapted(base(), spec, **options))
    rows = slice(2 * rank, 2 * rank + 2) if split else slice(None)
    wanted = one(input_ids=IDS).logits
    wanted.square().mean().backward()
    found = whole(model(input_ids=IDS[rows]).logits)
    found.square().mean().backward()
    errors = [(found - wanted[rows]).abs().max()]
    for name, parameter in parameters(model).items():
        assert parameter.grad is not None
        grad = parameters(one)[name].grad
        errors.append((whole(parameter.grad) - grad).abs().max() / grad.abs().max())
    with torch.no_grad():
        again = whole(model(input_ids=IDS[rows]).logits)
    return float(max(*errors, (again - wanted[rows]).abs().max()))


def refusal(function: Callable[[], object]) -> str:
    try:
        function()
    except peftlang.PeftError as error:
        return str(error.code)
    return "not refused"


# Shards


@check
def shards_after() -> float:
    return error_of(sharded(moved(adapted(base()))), split=True)


@check
def shards_before() -> float:
    model = adapted(sharded(base()), "dora")
    assert all(hasattr(parameter, "device_mesh") for parameter in parameters(model).values())
    return error_of(moved(model), "dora", split=True)


@check
def root_alone() -> float:
    return error_of(fully_shard(moved(adapted(base())), mesh=MESH), split=True)


@check
def half_precision_after() -> float:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return error_of(sharded(moved(adapted(base())), mp_policy=policy), split=True)


@check
def half_precision_before() -> float:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return error_of(moved(adapted(sharded(base(), mp_policy=policy))), split=True)


def from_meta(make: Callable[[Any], object]) -> Any:
    with torch.device("meta"):
        model = base()
    make(model)
    sharded(model).to_empty(device="cpu")
    fill(model)
    return model


def fill(model: nn.Module) -> None:
    """The base's weights and buffers, as another one has them."""
    source = base()
    state = source.state_dict()
    for name, parameter in model.named_parameters():
        if name in state:
            mesh, places = parameter.device_mesh, parameter.placements
            value = torch.distributed.tensor.distribute_tensor(state[name], mesh, places)
            parameter.detach().copy_(value)
    for name, buffer in source.named_buffers():
        model.get_buffer(name).copy_(buffer)


@check
def meta() -> float:
    model = from_meta(lambda model: adapted(model, "pissa"))
    assert refusal(lambda: model(input_ids=IDS)) == "R532"
    peftlang.initialise(model)
    own = parameters(adapted(base(), "pissa"))
    errors = [(whole(p) - own[name]).abs().max() for name, p in parameters(model).items()]
    return max(float(max(errors).detach()), error_of(moved(model), "pissa", split=True))


@check
def meta_and_load() -> float:
    if rank == 0:
        peftlang.save(moved(adapted(base())), folder / "one")
    dist.barrier()
    model = from_meta(lambda model: peftlang.load(model, folder / "one"))
    peftlang.initialise(model)
    return error_of(model, split=True)


@check
def save() -> float:
    model = sharded(moved(adapted(base())))
    peftlang.save(model, folder / "two")
    loaded = peftlang.load(base(), folder / "two")
    again = peftlang.load(sharded(base()), folder / "two")
    return max(error_of(loaded, split=False), error_of(again, split=True))


@check
def save_fails_for_all() -> str:
    model = sharded(adapted(base()))
    return refusal(lambda: peftlang.save(model, folder / "base"))


@check
def distributed_checkpoint() -> float:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    model = sharded(moved(adapted(base())))
    dcp.save(get_model_state_dict(model), checkpoint_id=str(folder / "dcp"))
    other = adapted(sharded(base()))
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=str(folder / "dcp"))
    set_model_state_dict(other, state)
    return error_of(other, split=True)


@check
def adapted_again_in_shards() -> float:
    model = sharded(adapted(base()))
    peftlang.remove(model)
    return error_of(moved(adapted(model)), split=True)


@check
def merged_in_shards() -> float:
    model = moved(adapted(sharded(base())))
    wanted = moved(adapted(base()))(input_ids=IDS).logits
    return float((peftlang.merge(model)(input_ids=IDS).logits - wanted).abs().max())


# Tensors


def in_parts(make: Callable[[], Any], spec: str, **options: Any) -> float:
    return error_of(moved(adapted(make(), spec, **options)), spec, split=False, **options)


def styles() -> Any:
    return parallel(base())


for _spec, _options in (
    ("lora", {"at": PROJECTIONS}),
    ("dora", {"at": "attn.q, attn.o, ffn.down"}),
    ("houlsby", {"at": "attn.q, ffn.down"}),
    ("vera", {}),
    ("parallel_adapter", {}),
):
    CHECKS[f"styles_{_spec}"] = partial(in_parts, styles, _spec, **_options)
    CHECKS[f"plan_{_spec}"] = partial(in_parts, by_plan, _spec, **_options)


@check
def parts_follow() -> float:
    model = adapted(parallel(base()), at="attn.q, attn.o")
    shapes = {name: tuple(p.to_local().shape) for name, p in parameters(model).items()}
    first = "lora.model.layers.0.self_attn"
    assert shapes[f"{first}.q_proj.attn_q.A"] == (8, 32)
    assert shapes[f"{first}.q_proj.attn_q.B"] == (16, 8)
    assert shapes[f"{first}.o_proj.attn_o.A"] == (8, 16)
    assert shapes[f"{first}.o_proj.attn_o.B"] == (32, 8)
    return 0.0


@check
def save_parts() -> float:
    peftlang.save(moved(adapted(parallel(base()))), folder / "three")
    return error_of(peftlang.load(base(), folder / "three"), split=False)


@check
def heads_apart() -> str:
    return refusal(lambda: adapted(by_plan(), "prefix"))


@check
def words_apart() -> str:
    return refusal(lambda: adapted(by_plan(), "prompt_tuning"))


@check
def parts_after() -> str:
    return refusal(lambda: parallel(adapted(base())))


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    MESH = init_device_mesh("cpu", (2,))
    torch.set_num_threads(1)
    if rank == 0:
        base().save_pretrained(folder / "base")
    dist.barrier()
    found: dict[str, float | str] = {}
    for name, function in CHECKS.items():
        try:
            found[name] = function()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:600]
    if rank == 0:
        print(json.dumps(found))
    dist.destroy_process_group()
