"""Rewrites the generated parts of the documentation: errors, functions, the library of methods.

`make docs` runs this; a test fails when a page is not what this would write.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from docs.library import SPECS, library_table
from peftlang.diagnostics import CODES, Code
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.inits import INITIALISERS

HERE = Path(__file__).resolve().parent

FAMILIES = {
    "P": "Characters and grammar",
    "N": "Names and imports",
    "T": "Types and shapes",
    "M": "Methods and adapters",
    "S": "Positions and sites",
    "R": "While the model runs",
    "D": "Saving and loading",
    "C": "The command line and the model",
    "V": "Verifying",
    "I": "Adapters of other libraries",
}

HEAD = """# Errors

Every diagnostic has a code that never changes its meaning. `peftlang explain CODE` prints the
same text as this page, which is generated from the table in `peftlang/diagnostics/codes/`; every
example on it is run by the tests.
"""


def errors_page() -> str:
    """The page of every code."""
    parts = [HEAD]
    for letter, title in FAMILIES.items():
        entries = [entry for code, entry in sorted(CODES.items()) if code.startswith(letter)]
        parts.append(f"## {letter}: {title}\n")
        parts.extend(_entry(entry) for entry in entries)
    return "\n".join(parts)


def _entry(entry: Code) -> str:
    text = f"### {entry.code}: {entry.title}\n\n{entry.explanation.strip()}\n"
    if not entry.runs:
        return f"{text}\nFor example: {entry.example.strip()}\n"
    text += f"\n```peft code={entry.code}\n{entry.example.strip()}\n```\n"
    if entry.fixed is not None:
        # The mended texts of the grammar's own codes are sketches: they parse, and that is all.
        kind = "peft syntax" if entry.code.startswith("P") else "peft"
        text += f"\nMended:\n\n```{kind}\n{entry.fixed.strip()}\n```\n"
    return text


def functions_table() -> str:
    """The table of the language's functions and operators."""
    return _table((entry.signature, entry.doc) for entry in BUILTINS.values())


def initialisers_table() -> str:
    """The table of initialisers."""
    return _table((entry.signature, entry.doc) for entry in INITIALISERS.values())


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = ["| call | meaning |", "|---|---|"]
    for call, meaning in rows:
        escaped = call.replace("|", "\\|")
        lines.append(f"| `{escaped}` | {meaning} |")
    return "\n".join(lines)


def with_region(page: str, name: str, text: str) -> str:
    """Replace what stands between the markers of a generated region.

    Raises:
        ValueError: the page has no such region.
    """
    begin, end = f"<!-- generated: {name} -->", "<!-- end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"no region {name!r}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page, count=1)


def pages() -> dict[Path, str]:
    """Every page with a generated part, as it should be."""
    language = HERE / "language.md"
    text = language.read_text("utf-8")
    text = with_region(text, "functions", functions_table())
    text = with_region(text, "initialisers", initialisers_table())
    library = SPECS / "README.md"
    return {
        HERE / "errors.md": errors_page(),
        language: text,
        library: with_region(library.read_text("utf-8"), "methods", library_table()),
    }


def main() -> int:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
