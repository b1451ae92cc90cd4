"""Verification catches slips: every mutant of every spec is rejected, or is listed as the same.

There is no Python here for any one spec: a new file in `specs/` is mutated by being there, and
judged by the reference that it needs, `tests/references/NAME.py`.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from peftlang.lower import build, load
from tests.mutation import table
from tests.mutation.equivalent import EQUIVALENT, reason_for
from tests.mutation.judge import Case, case
from tests.mutation.mutants import Mutant, candidates, chosen, is_well_typed
from tests.mutation.table import Count
from tests.mutation.training import TrainingCase
from tests.oracles.plain import REFERENCES, SPECS

COUNT = int(os.environ.get("PEFTLANG_MUTANTS", "24"))
"""How many mutants of each spec are judged; all that there are, where this is large."""

LEAST = 10
LISTED = max(8, COUNT - 24)
"""How many that are equivalent for one reason are judged; all that there are, with all mutants."""

LIBRARY = sorted(SPECS.glob("*.peft"))
WITH_REFERENCE = [path for path in LIBRARY if (REFERENCES / f"{path.stem}.py").exists()]


def _stem(path: Path) -> str:
    return path.stem


@cache
def judge_of(path: Path) -> Case | TrainingCase:
    """A spec that places methods is judged at sites, one that has `train` clauses alone by them."""
    return case(path) if build(load(path.read_text("utf-8"))).uses else TrainingCase(path)


def judged(path: Path) -> list[Mutant]:
    """A seeded choice, and mutants for each reason why some are equivalent."""
    listed: dict[str, list[Mutant]] = {}
    for mutant in candidates(path):
        reason = reason_for(path.stem, mutant.line)
        if reason is not None:
            found = listed.setdefault(reason, [])
            if len(found) < LISTED and is_well_typed(mutant):
                found.append(mutant)
    first = [mutant for found in listed.values() for mutant in found]
    return chosen(candidates(path), COUNT, seed=len(path.stem), first=first)


@pytest.mark.parametrize("path", LIBRARY, ids=_stem)
def test_a_spec_has_a_reference(path: Path) -> None:
    wanted = REFERENCES / f"{path.stem}.py"
    assert wanted.exists(), (
        f"write tests/references/{wanted.name}: `def reference(site, params, x, h, W, b)` with the "
        f"paper's equation in plain torch, and `def initial(site, W, b)`; see docs/verification.md"
    )


@pytest.mark.parametrize("path", WITH_REFERENCE, ids=_stem)
def test_a_spec_is_what_its_reference_says(path: Path) -> None:
    assert judge_of(path).verdict(path.read_text("utf-8")) is None


@pytest.mark.parametrize("path", WITH_REFERENCE, ids=_stem)
def test_every_mutant_is_rejected(path: Path, update_golden: bool) -> None:
    """Survivors and the list of equivalent mutants are the same; the table says so as well."""
    judge, mutants = judge_of(path), judged(path)
    survivors = {m.line for m in mutants if judge.verdict(m.text) is None}
    listed = {m.line for m in mutants if reason_for(path.stem, m.line)}
    assert not survivors - listed, "survive, and are not listed in tests/mutation/equivalent.py"
    assert not listed - survivors, "are listed as equivalent, and are rejected"
    count = Count(len(mutants), len(mutants) - len(survivors), len(survivors))
    assert count.rejected >= LEAST
    _hold_to_the_page(path.stem, count, update=update_golden)


def _hold_to_the_page(spec: str, count: Count, *, update: bool) -> None:
    if COUNT != 24 and not update:
        return
    page = table.PAGE.read_text("utf-8")
    written = table.with_row(page, spec, count)
    if update:
        table.PAGE.write_text(written, encoding="utf-8")
    else:
        assert written == page, "`make golden` writes the measured table"


def test_nothing_is_listed_in_vain() -> None:
    for entry in EQUIVALENT:
        specs = [p for p in LIBRARY if not entry.specs or p.stem in entry.specs]
        assert all(
            any(entry.covers(p.stem, m.line) for m in candidates(p)) for p in specs if entry.specs
        ), entry.reason
        assert any(entry.covers(p.stem, m.line) for p in specs for m in candidates(p))
