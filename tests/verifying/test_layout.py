"""References know nothing of checks: what a spec is held to is independent of the holding."""

from pathlib import Path

import pytest

from docs.imports import module_of, modules

VERIFYING = Path(__file__).resolve().parents[2] / "peftlang" / "verifying"
FILES = sorted(VERIFYING.rglob("*.py"))


def test_no_reference_imports_a_check() -> None:
    known = {module_of(path) for path in FILES}
    for path in (VERIFYING / "references").glob("*.py"):
        below = modules(path.read_text("utf-8"), known)
        assert not [name for name in below if ".verifying.checks" in name], path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(VERIFYING)))
def test_a_file_is_read_at_one_sitting(path: object) -> None:
    assert path.read_text("utf-8").count("\n") <= 400
