"""Where an adapter runs, and why not in less: a plan's regions as data and in words."""

import re
from collections.abc import Iterator
from typing import Any

from peftlang.ir.plan import Plan, Reason, Region

_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")


def region_rows(plan: Plan) -> list[dict[str, Any]]:
    """The regions of a plan, those of one kind at one kind of module as one row each.

    Returns:
        For each row ``use``, ``position``, ``sites`` (how many), ``region`` (the kind), ``module``
        (its path, ``*`` in the place of a layer's number), ``operation``, and ``why`` (the reason
        that it is not smaller, as ``kind`` and ``names``).
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for use, role, region in _each(plan):
        module = _NUMBER.sub("*", region.path)
        key = use, role, region.kind, module, region.function, region.reason
        row = rows.setdefault(
            key,
            {
                "use": use,
                "position": role,
                "sites": 0,
                "region": region.kind,
                "module": module,
                "operation": region.function,
                "why": region.reason.model_dump(mode="json"),
            },
        )
        row["sites"] += 1
    return list(rows.values())


def _each(plan: Plan) -> Iterator[tuple[str, str, Region]]:
    for placement in plan.placements:
        for site, region in placement.regions.items():
            yield placement.label, plan.sites[site].role, region


def region_text(row: dict[str, Any]) -> str:
    """What a row's region is, in words."""
    module = row["module"] or "the model"
    texts = {
        "module": f"border of {module}",
        "operation": f"{row['operation']} in {module}",
        "inside": f"operations of {module}",
        "call": "arguments of the model",
        "whole": "the whole model, as one graph",
    }
    return texts[row["region"]]


def why_text(row: dict[str, Any]) -> str:
    """Why a row's region is not smaller, in words."""
    reason, module = Reason.model_validate(row["why"]), row["module"] or "the model"
    names = ", ".join(f"`{name}`" for name in reason.names)
    shows = "shows" if len(reason.names) == 1 else "show"
    texts = {
        "border": f"{names} {shows} at the module's border: there is nothing smaller",
        "within": f"{names} {shows} at no module's border, but within that one operation",
        "between": f"{names} {shows} between operations of {module} alone",
        "arguments": "soft tokens change how many tokens the whole model sees",
        "ahead": f"a tap reads {names} before the model gets there",
    }
    return texts[reason.kind]
