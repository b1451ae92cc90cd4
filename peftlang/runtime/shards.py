"""Adapters of a base whose weights several processes share (`DTensor`).

Two ways of sharing are told apart by who puts a weight together before it is used:

- *Data parallel* (`fully_shard`): each process has a part of every weight, and each module is put
  together for the time of its forward. A module that is sharded with its adapter brings that too.
  An adapter that comes later is in no module's list, so its holder does the same for it: all parts
  together in the forward, the mean of the gradients back into parts.
- *Tensor parallel* (`parallelize_module`, a `tp_plan`): each process computes with its part. Which
  part of an adapter's tensor belongs there follows from the tensor's dimensions: where a
  projection's outputs are split, so is whatever has a dimension `d_h`; where its inputs are,
  whatever has `d_x`; all else is the same everywhere. What an expression makes of such parts is
  DTensor's to know, as it is for the base.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peftlang.capture import Weights
from peftlang.capture.storage import is_sharded
from peftlang.diagnostics import PeftError
from peftlang.ir.plan import TRAINED, ParamGroup, Plan, Site


def shard(tensors: Any, group: ParamGroup, plan: Plan, weights: Weights) -> None:
    """Let each process have its part of a group's tensor, as it has of the base there.

    Args:
        tensors: The adapter's (`AdapterTensors`); they hold the group's already.
        group: The group.
        plan: Its plan.
        weights: The base's.

    Raises:
        PeftError: R534, the base is shared in a way that an adapter cannot follow.
    """
    holder, leaf = tensors.places[group.name]
    base = _shared_among_data(group, plan, weights)
    if base is not None:
        if group.trainable:
            _put(holder, leaf, base.device_mesh, _among_data(base, holder.tensor(leaf)))
            holder.apart.add(leaf)
        return
    found = _among_tensors(group, plan, weights)
    if found is not None:
        _put(holder, leaf, *found)
        label, member = group.members[0]
        layout = None if label == TRAINED else layout_of(plan.sites[member], weights)
        holder.split = layout.split if layout is not None else ()


def settle(model: nn.Module) -> None:
    """Let every module that is in shards be in shards now.

    After a forward some are whole until the backward, and one that raised leaves others so; what is
    written into them then is lost when they are cut again.
    """
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


def together(value: Tensor) -> Tensor:
    """All of a tensor in parts; the mean of the processes' gradients goes back into the parts."""
    from torch.distributed.tensor import Partial

    if not is_sharded(value):
        return value
    part: Any = value
    mesh = part.device_mesh
    whole: Tensor = part.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        count = mesh.size()
        whole.register_hook(lambda gradient: gradient / count)
    return whole


def first_alone(do: Callable[[], None]) -> None:
    """Let the first process do something while the others wait; what it raises, all raise."""
    import torch.distributed as dist

    raised: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            do()
        except PeftError as error:
            raised = [error]
    dist.broadcast_object_list(raised, src=0)
    if raised[0] is not None:
        raise raised[0]


def _put(holder: Any, leaf: str, mesh: Any, placements: Any) -> None:
    from torch.distributed.tensor import distribute_tensor

    value = holder.tensor(leaf)
    # Every process has made all of it, and the same numbers, so none has to send.
    made = distribute_tensor(value.detach(), mesh, placements, src_data_rank=None)
    if leaf in holder._parameters:
        holder._parameters[leaf] = nn.Parameter(made, requires_grad=value.requires_grad)
    else:
        holder._buffers[leaf] = made


def _shared_among_data(group: ParamGroup, plan: Plan, weights: Weights) -> Any:
    """A parameter in parts at the places that use a group, which its module puts together."""
    for label, member in group.members:
        for name in (member,) if label == TRAINED else _names(plan.sites[member]):
            if name in weights and is_sharded(raw := weights.raw(name)):
                path, _ = weights.place(name)
                if is_gathered(weights.root, path):
                    return raw
    return None


def _names(site: Site) -> tuple[str, ...]:
    return tuple(name for name in (site.weight, *site.anchors) if name is not None)


def is_gathered(root: nn.Module, path: str) -> bool:
    """Whether a module's weights are put together for its forward, by it or by one around it."""
    parts = path.split(".") if path else []
    around = (root.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1))
    return any(c.__name__ == "FSDPModule" for m in around for c in type(m).__mro__)


def _among_data(base: Any, value: Tensor) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    splits = [not placement.is_replicate() for placement in base.placements]
    if sum(splits) > 1:
        raise PeftError(
            "the base is shared twice, among data and among tensors",
            code="R534",
            help="adapt it after it is parallel by tensors, and before fully_shard",
        )
    return [Shard(0) if split and value.dim() else Replicate() for split in splits]


def _among_tensors(group: ParamGroup, plan: Plan, weights: Weights) -> tuple[Any, Any] | None:
    """The mesh, and where on it a group's tensor belongs; None where the base is in no parts."""
    from torch.distributed.tensor import Replicate, Shard

    found: list[tuple[Any, list[Any]] | None] = []
    for label, member in group.members:
        if label == TRAINED:
            raw: Any = weights.raw(member)
            return (raw.device_mesh, raw.placements) if is_sharded(raw) else None
        layout = layout_of(plan.sites[member], weights)
        if layout is None:
            found.append(None)
            continue
        definition = next(d for d in plan.uses[label].method.tensors if d.name == group.tensor)
        dims = [str(dim) for dim in definition.dims]
        placed = [Shard(dims.index(d)) if d in dims else Replicate() for d in layout.split]
        found.append((layout.mesh, placed))
    if all(one == found[0] for one in found):
        return found[0]
    meshes = [one[0] for one in found if one is not None]
    if len(meshes) < len(found):
        raise cannot_follow(plan.sites[group.members[found.index(None)][1]])
    return meshes[0], [Replicate()] * meshes[0].ndim


@dataclass(frozen=True)
class Layout:
    """How the processes of a mesh share a projection.

    Attributes:
        mesh: The mesh.
        split: For each of its dimensions: whether `d_h` or `d_x` is split, or "".
    """

    mesh: Any
    split: tuple[str, ...]


def layout_of(site: Site, weights: Weights) -> Layout | None:
    """How the processes share the values of a site; None where each has all of them.

    Raises:
        PeftError: R534, the site's values are split in a way that cannot be followed.
    """
    raw: Any = None
    if site.weight is not None and site.weight in weights:
        raw = weights.raw(site.weight)
    if not is_sharded(raw):
        inner = site.role.endswith((".core", ".act")) or site.role == "prompt"
        if inner and any(is_sharded(weights.raw(n)) for n in site.anchors if n in weights):
            raise cannot_follow(site)
        return None
    names = ("d_x", "d_h") if site.transposed else ("d_h", "d_x")
    split = [p for p in raw.placements if not p.is_replicate()]
    plain = all(type(p).__name__ == "Shard" and p.dim < 2 for p in split)
    if split and (site.rows is not None or site.is_expert or not plain):
        raise cannot_follow(site)
    if site.role in {"embed", "prompt"} and split:
        raise cannot_follow(site)
    return Layout(
        raw.device_mesh, tuple("" if p.is_replicate() else names[p.dim] for p in raw.placements)
    )


def cannot_follow(site: Site) -> PeftError:
    """The error for a site whose values are split otherwise than between features."""
    return PeftError(
        f"{site.id} is computed in parts by several processes, and which part of the adapter "
        "belongs to which does not follow from its dimensions",
        code="R534",
        help="place the method at projections of their own (`attn.o`, `ffn.up`, `ffn.down`), or at "
        "whole branches (`attn`, `ffn`)",
    )


# Values of a module that computes in parts, with plain tensors of its own parts


def as_shared(value: Tensor, what: str, mesh: Any, split: tuple[str, ...]) -> Tensor:
    """A process's part of a value as a part of the whole.

    Args:
        value: The part.
        what: ``x``, ``h``, ``W``, or "" for what every process has all of.
        mesh: The processes.
        split: As of a `Holder`.
    """
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(value, mesh, _placed(what, split), run_check=False)


def as_part(value: Tensor, what: str, split: tuple[str, ...]) -> Tensor:
    """A process's part of a value; of a sum, one that adds up to it."""
    from torch.distributed.tensor import Replicate

    shared: Any = value
    wanted = _placed(what, split)
    summed = [p.is_partial() for p in wanted]
    if not any(summed):
        return shared.redistribute(placements=wanted).to_local()  # type: ignore[no-any-return]
    whole = [Replicate() if s else p for p, s in zip(wanted, summed, strict=True)]
    count = 1
    for size, one in zip(shared.device_mesh.shape, summed, strict=True):
        count *= size if one else 1
    return shared.redistribute(placements=whole).to_local() / count  # type: ignore[no-any-return]


def _placed(what: str, split: tuple[str, ...]) -> list[Any]:
    from torch.distributed.tensor import Partial, Replicate, Shard

    known = {
        ("x", "d_x"): Shard(-1),
        ("h", "d_h"): Shard(-1),
        ("h", "d_x"): Partial(),
        ("W", "d_h"): Shard(0),
        ("W", "d_x"): Shard(1),
    }
    return [known.get((what, one), Replicate()) for one in split]
