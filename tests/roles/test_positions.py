"""The positions of every preset against tables that were written from the models' own sources.

A table has a line for each position: role, module path (`*` is the layer), d_x, d_h, and where
they matter the rows of a fused projection and the heads. Every projection is a `linear` as well,
except a head; the tables list those that have no other role.
"""

from functools import cache
from pathlib import Path

import pytest

from peftlang.capture import capture
from peftlang.ir.plan import Rows, Site
from peftlang.models import PRESETS, build, example_inputs
from peftlang.passes.decompose import write_out
from peftlang.passes.roles import roles

TABLES = Path(__file__).parent / "positions"
LAYERS = 2
PROJECTIONS = ("q", "k", "v", "o", "up", "gate", "down")

Row = tuple[str, ...]


@cache
def sites_of(preset: str, attention: str) -> tuple[Site, ...]:
    model = build(preset, attn_implementation=attention)
    graphs = capture(model, example_inputs(model))
    for graph in graphs:
        write_out(graph)
    return tuple(roles(graphs))


def row_text(rows: Rows | None) -> list[str]:
    if rows is None:
        return []
    assert all(step == 1 for _, _, step in rows.runs)
    return ["rows=" + ",".join(f"{a}:{b}" for a, b, _ in rows.runs) + f"/{rows.size}"]


def found(site: Site) -> Row:
    details = ["transposed"] if site.transposed else []
    details += row_text(site.rows)
    if site.role.endswith(".core"):
        details += [f"{name}={site.dims[name]}" for name in ("heads", "kv_heads", "d_head")]
    d_x = "-" if site.role in {"embed", "ffn.act"} else str(site.dims["d_x"])
    return (site.side or "-", site.role, site.path, d_x, str(site.dims["d_h"]), *details)


def expected(preset: str) -> set[Row]:
    lines, side = [], "-"
    for line in (TABLES / f"{preset}.txt").read_text().splitlines():
        role, *rest = line.split()
        if role == "side":
            side = rest[0]
            continue
        for layer in range(LAYERS) if "*" in line else (0,):
            path = rest[0].replace("*", str(layer))
            lines.append((side, role, path, *rest[1:]))
    return {*lines, *(as_linear(line) for line in lines if is_projection(line[1]))}


def is_projection(role: str) -> bool:
    family, _, part = role.rpartition(".")
    return bool(family) and part in PROJECTIONS


def as_linear(line: Row) -> Row:
    side, _, path, d_x, d_h, *details = line
    kept = [detail for detail in details if detail == "transposed"]
    whole = next((d.rpartition("/")[2] for d in details if d.startswith("rows=")), d_h)
    return (side, "linear", path, d_x, whole, *kept)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_roles_are_what_the_models_sources_say(preset: str, attention: str) -> None:
    assert {found(site) for site in sites_of(preset, attention)} == expected(preset)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_sites_are_distinct_and_know_their_layer(preset: str, attention: str) -> None:
    sites = sites_of(preset, attention)
    assert len({site.id for site in sites}) == len(sites)
    for site in sites:
        if site.stack is not None:
            assert site.path.startswith(f"{site.stack}.{site.layer}")
            assert site.dims["layers"] == LAYERS
        assert site.anchors


def test_a_table_for_each_preset() -> None:
    assert {path.stem for path in TABLES.glob("*.txt")} == set(PRESETS)
