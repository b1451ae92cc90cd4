"""The positions of every preset, written beside the names that their authors gave them."""

from pathlib import Path

import pytest

from peftlang.ir.plan import Site
from peftlang.models import PRESETS, build
from peftlang.pipeline import survey

GOLDEN = Path(__file__).parent / "golden"
ATTENTION = ("sdpa", "eager")


def line(site: Site) -> str:
    """One site: role, owner, weight, slice, and sizes."""
    sizes = " ".join(f"{name}={size}" for name, size in sorted(site.dims.items()))
    rows = f" rows={list(site.rows.runs)}" if site.rows else ""
    place = f" {site.side or '-'}:{'-' if site.layer is None else site.layer}"
    weight = f" W={site.weight}{' (transposed)' if site.transposed else ''}" if site.weight else ""
    return f"{site.role} {site.path or '.'}{place}{weight}{rows} {sizes}\n"


def table(preset: str, attention: str) -> str:
    model = build(preset, attn_implementation=attention).eval()
    return "".join(line(site) for site in survey(model).sites)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_role_is_where_its_author_put_it(
    preset: str, attention: str, update_golden: bool
) -> None:
    found = table(preset, attention)
    path = GOLDEN / f"{preset}.txt"
    if update_golden:
        path.write_text(found)
    assert found == path.read_text()


def test_the_golden_files_are_those_of_the_presets() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(PRESETS)
