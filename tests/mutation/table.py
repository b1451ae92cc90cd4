"""The table of kill rates in the documentation: what a run of the suite measured."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "verification.md"
BEGIN, END = "<!-- measured: mutants -->", "<!-- end -->"
_REGION = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


@dataclass(frozen=True)
class Count:
    """What became of a spec's mutants: judged, rejected, and the same as the spec."""

    judged: int
    rejected: int
    equivalent: int

    @property
    def rate(self) -> float:
        """Rejected ones among those that are not equivalent."""
        return self.rejected / (self.judged - self.equivalent)


def rows(counts: Mapping[str, Count]) -> str:
    """The table as Markdown."""
    lines = ["| spec | mutants | rejected | equivalent | kill rate |", "|---|---:|---:|---:|---:|"]
    for name, c in sorted(counts.items()):
        lines.append(f"| `{name}` | {c.judged} | {c.rejected} | {c.equivalent} | {c.rate:.0%} |")
    return "\n".join(lines)


def with_row(page: str, name: str, count: Count) -> str:
    """The page with one spec's row as measured."""
    (row,) = rows({name: count}).splitlines()[2:]
    found = _REGION.search(page)
    assert found, f"{PAGE.name} has no region {BEGIN}"
    kept = [line for line in found[0].splitlines() if line.startswith("| `")]
    others = [line for line in kept if not line.startswith(f"| `{name}` ")]
    head = rows({}).splitlines()
    table = "\n".join([BEGIN, *head, *sorted([*others, row]), END])
    return _REGION.sub(lambda _: table, page, count=1)
