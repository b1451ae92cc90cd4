"""The positions of every preset against tables that were written from the models' own sources.

A table has a line for each position: role, module path (`*` is the layer), d_x, d_h, and where
they matter the rows of a fused projection and the heads. Every projection is a `linear` as well,
except a head; the tables list those that have no other role.
"""

from pathlib import Path

import pytest

from peftlang.ir.plan import Rows, Site
from peftlang.models import PRESETS, build
from peftlang.pipeline import survey

TABLES, GOLDEN = (Path(__file__).parent / name for name in ("positions", "golden"))
LAYERS = 2
PROJECTIONS = ("q", "k", "v", "o", "up", "gate", "down")

Row = tuple[str, ...]


KINDS = [(preset, attention) for preset in sorted(PRESETS) for attention in ("sdpa", "eager")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def surveyed(request: pytest.FixtureRequest) -> tuple[str, tuple[Site, ...]]:
    """A preset and its sites, with one kind of attention."""
    preset, attention = request.param
    model = build(preset, attn_implementation=attention).eval()
    return preset, survey(model).sites


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
    return bool(family) and family != "expert" and part in PROJECTIONS


def as_linear(line: Row) -> Row:
    side, _, path, d_x, d_h, *details = line
    kept = [detail for detail in details if detail == "transposed"]
    whole = next((d.rpartition("/")[2] for d in details if d.startswith("rows=")), d_h)
    return (side, "linear", path, d_x, whole, *kept)


def line(site: Site) -> str:
    """One site: role, owner, weight, slice, and sizes."""
    sizes = " ".join(f"{name}={size}" for name, size in sorted(site.dims.items()))
    rows = f" rows={list(site.rows.runs)}" if site.rows else ""
    place = f" {site.side or '-'}:{'-' if site.layer is None else site.layer}"
    weight = f" W={site.weight}{' (transposed)' if site.transposed else ''}" if site.weight else ""
    return f"{site.role} {site.path or '.'}{place}{weight}{rows} {sizes}\n"


def test_roles_are_what_the_models_sources_say(surveyed: tuple[str, tuple[Site, ...]]) -> None:
    preset, sites = surveyed
    assert {found(site) for site in sites if site.role != "prompt"} == expected(preset)


def test_every_site_is_as_it_was(
    surveyed: tuple[str, tuple[Site, ...]], update_golden: bool
) -> None:
    """Weights, slices and every size, as written down when they were looked at."""
    preset, sites = surveyed
    text, path = "".join(map(line, sites)), GOLDEN / f"{preset}.txt"
    if update_golden:
        path.write_text(text)
    assert text == path.read_text()


def test_sites_are_distinct_and_know_their_layer(surveyed: tuple[str, tuple[Site, ...]]) -> None:
    sites = [site for site in surveyed[1] if site.role != "prompt"]
    assert len({site.id for site in sites}) == len(sites)
    for site in sites:
        if site.stack is not None:
            assert site.path.startswith(f"{site.stack}.{site.layer}")
            assert site.dims["layers"] == LAYERS
        assert site.anchors


@pytest.mark.parametrize("folder", [TABLES, GOLDEN])
def test_a_table_for_each_preset(folder: Path) -> None:
    assert {path.stem for path in folder.glob("*.txt")} == set(PRESETS)
