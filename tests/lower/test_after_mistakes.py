"""After a mistake of syntax the rest of a file is checked, and nothing follows from it."""

from pathlib import Path

import pytest

from peftlang.diagnostics import Source
from peftlang.lower import check
from peftlang.syntax import nodes, parse_text

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.peft"))

TEXT = """from lora import lora

method a(r: int = 8) {
    param A[r, d_x] = zeros
    param B[d_h, r] ~ zeros
    position attn.zz
    function delta = B @ (A @ x) + foo(x)
}

method b(r: int = 8) {
    param A[r, d_x] ~ zeros
    position attn.q
    function delta = A @ A
    insertion sideways
}

adapter c {
    lora(r = 4)
    lorra(r = 4)
}
"""


def test_one_run_finds_them_all() -> None:
    found = check([Source("six.peft", TEXT)])
    assert [d.code for d in found] == ["P012", "S401", "N103", "T208", "M305", "N104"]


@pytest.mark.parametrize("path", SPECS[::6], ids=lambda path: path.stem)
def test_a_clause_that_cannot_be_read_is_one_error(path: Path) -> None:
    text = path.read_text("utf-8")
    for item in parse_text(text)[0].items:
        for clause in () if isinstance(item, nodes.Import) else item.clauses:
            for damage in (" $", " )", " = ="):
                at = clause.span.end
                source = Source(str(path), text[:at] + damage + text[at:], path)
                errors = [d for d in check([source]) if d.severity == "error"]
                assert [d.code[0] for d in errors] == ["P"], text[: at + 9].splitlines()[-1]
