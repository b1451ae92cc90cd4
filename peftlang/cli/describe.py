"""A method, an adapter or a plan as plain data, for JSON and for the eye."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from peftlang.cli.regions import region_rows
from peftlang.ir.cost import Cost, cost
from peftlang.ir.method import Adapter, Method, Use
from peftlang.ir.plan import Plan, Site
from peftlang.ir.sizes import site_sizes

DIMENSIONS = ("function", "position", "insertion", "composition", "sharing")


def adapter_facts(adapter: Adapter) -> dict[str, Any]:
    """What an adapter is, with no model at hand."""
    return {
        "adapter": adapter.name,
        "doc": adapter.doc,
        "arguments": dict(adapter.args),
        "uses": [use_facts(use) for use in adapter.uses],
        "train": [str(selector) for selector in adapter.train],
        "shares": [f"{tie.tensor} across {', '.join(tie.uses)}" for tie in adapter.ties],
    }


def use_facts(use: Use) -> dict[str, Any]:
    """One use of a method: its five dimensions as this use has them, and its tensors."""
    method = use.method
    per_site = [t for t in method.tensors if t.trainable]
    return {
        "label": use.label,
        "method": method.name,
        "doc": method.doc,
        "arguments": dict(use.args),
        "dimensions": _dimensions(method, str(use.selector)),
        "trains": [_tensor(t.name, t.dims, t.across) for t in per_site],
        "keeps": [_tensor(t.name, t.dims, t.across) for t in method.tensors if not t.trainable],
        "inputs": [_tensor(i.name, i.dims, None) for i in method.inputs],
        "promises": [contract.text or contract.property for contract in method.contracts],
    }


def _dimensions(method: Method, selector: str) -> dict[str, str]:
    shared = [f"{t.name} across {t.across}" for t in method.tensors if t.shared]
    return {
        "function": method.text.get("function", "none: the composition says it all"),
        "position": selector,
        "insertion": method.insertion,
        "composition": method.text.get("composition") or _default_composition(method),
        "sharing": ", ".join(shared) or "none",
    }


def _default_composition(method: Method) -> str:
    return f"h = h + {method.function[0]}" if method.function else ""


def _tensor(name: str, dims: Sequence[object], shared: str | None) -> str:
    shape = f"{name}[{', '.join(map(str, dims))}]"
    return f"{shape} across {shared}" if shared else shape


def site_rows(sites: Iterable[Site]) -> list[dict[str, Any]]:
    """Sites of one role, stack and shape as one row each."""
    groups: dict[tuple[Any, ...], list[Site]] = defaultdict(list)
    for site in sites:
        shape = tuple(site.dims.get(name) for name in ("d_x", "d_h", "heads", "kv_heads"))
        groups[(site.role, site.side, site.stack, shape)].append(site)
    return [
        {
            "role": role,
            "side": side,
            "stack": stack,
            "sites": len(members),
            "layers": layer_text(m.layer for m in members),
            "dims": members[0].dims,
            "fused": any(m.rows is not None for m in members),
            "paths": [m.path for m in members],
        }
        for (role, side, stack, _), members in groups.items()
    ]


def layer_text(layers: Iterable[int | None]) -> str:
    """Layer numbers as ranges: ``0-11``, ``0, 2-3``; empty for none."""
    numbers = sorted({n for n in layers if n is not None})
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in _runs(numbers))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            yield numbers[start], numbers[place - 1]
            start = place


def plan_cost(plan: Plan) -> Cost:
    """What all placements of a plan add to a forward pass."""
    total = Cost()
    for placement in plan.placements:
        use = plan.uses[placement.label]
        for name in placement.sites:
            total += cost(
                use.method,
                site_sizes(use.method, use.args, plan.sites[name], placement.tapped_sizes(name)),
            )
    return total


def plan_facts(plan: Plan, base: Mapping[str, int], item_size: int) -> dict[str, Any]:
    """What a plan does to a model.

    Args:
        plan: The plan.
        base: Element counts of the base model's parameters, by name.
        item_size: Bytes of one number.
    """
    total = sum(base.values())
    unfrozen = sum(base[name] for name in plan.train)
    trainable = plan.trainable + unfrozen
    added = plan_cost(plan)
    return {
        "sites": [
            {"use": placement.label, **row}
            for placement in plan.placements
            for row in site_rows(plan.sites[name] for name in placement.sites)
        ],
        "regions": region_rows(plan),
        "trainable": {
            "adapter": plan.trainable,
            "base": unfrozen,
            "total": trainable,
            "of": total,
            "share": trainable / total if total else 0.0,
            "bytes": trainable * item_size,
        },
        "per_token": {
            "flops": added.token_flops,
            "activation_bytes": added.activations * item_size,
        },
        "per_pass": {"flops": added.pass_flops},
    }


def shape_text(dims: Mapping[str, int]) -> str:
    """A site's sizes in one cell: ``32 -> 64``, ``4 heads x 8``."""
    if "heads" in dims and "d_head" in dims and "d_h" not in dims:
        return heads_text(dims)
    if "d_x" in dims and "d_h" in dims:
        return f"{dims['d_x']} -> {dims['d_h']}"
    return str(dims.get("d_h", ""))


def heads_text(dims: Mapping[str, int]) -> str:
    """The heads of an attention product: ``4 x 8``, ``4 (2 for keys) x 8``."""
    if "heads" not in dims:
        return ""
    heads, keys = dims["heads"], dims.get("kv_heads", dims["heads"])
    many = str(heads) if heads == keys else f"{heads} ({keys} for keys)"
    return f"{many} x {dims['d_head']}" if "d_head" in dims else many


def bytes_text(count: int) -> str:
    """A number of bytes with a unit: ``6.0 KiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
