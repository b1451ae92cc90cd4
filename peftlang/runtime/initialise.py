"""Giving an adapter its starting values where its tensors are now: in shards, on other devices."""

import torch
from torch import nn

from peftlang.capture import Weights
from peftlang.capture.storage import assign
from peftlang.emit.starts import Start
from peftlang.runtime import registry as state
from peftlang.runtime.holders import AdapterTensors, started, unmade
from peftlang.runtime.registry import AdapterRecord
from peftlang.runtime.shards import settle


def initialise(model: nn.Module, adapter_name: str | None = None) -> None:
    """Give adapters the values with which ``compile`` or ``load`` would have made them here.

    For a model that was adapted on the meta device, sharded, and given memory by ``to_empty``.
    The base's weights should be there before, since some methods start from them. Of a model in
    shards, every process has to ask for it.

    Args:
        model: An adapted model.
        adapter_name: Which adapter; None for all.

    Raises:
        PeftError: R504, R505, no such adapter; R532, its tensors are still on the meta device.
    """
    found = state.of(model)
    settle(model)
    for name in found.records if adapter_name is None else (adapter_name,):
        _fill(found.require(name), found.tensors(name), model)


def _fill(record: AdapterRecord, tensors: AdapterTensors, model: nn.Module) -> None:
    for name, tensor in tensors.named():
        if tensor.is_meta:
            raise unmade(name)
    weights = Weights(model)
    start = Start(record.plan, weights, record.seed)
    with torch.no_grad():
        for group in record.plan.groups.values():
            if group.name in tensors.later:
                value = tensors.later[group.name]
            else:
                value = started(group, start, weights, tensors.tensor(group.name).dtype)
            if value.is_meta:
                raise unmade(group.name)
            assign(tensors.tensor(group.name), value)
            holder, leaf = tensors.places[group.name]
            holder.unmade.discard(leaf)
    tensors.later.clear()
