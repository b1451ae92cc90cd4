"""`verify` holds every spec of the library to its reference, at sites of every size."""

from pathlib import Path

import pytest

from peftlang.verifying import verify
from tests.oracles.plain import REFERENCES, SPECS

LIBRARY = sorted(SPECS.glob("*.peft"))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_spec_keeps_its_promises_and_is_what_its_reference_says(path: Path) -> None:
    report = verify(path, against=REFERENCES / f"{path.stem}.py", examples=12, whole=False)
    report.check()
    assert report.rows
