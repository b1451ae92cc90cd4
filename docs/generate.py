"""Rewrites the generated parts of the documentation: errors, functions, methods, the picture.

`make docs` runs this; a test fails when a page is not what this would write.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from docs.architecture import folders_table, picture
from docs.library import SPECS, library_table
from peftlang.diagnostics.codes import FAMILIES, entries, page
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.inits import INITIALISERS

HERE = Path(__file__).resolve().parent

PAGES = "../peftlang/diagnostics/codes"

HEAD = """# Errors

Every diagnostic has a code that never changes its meaning. `peftlang explain CODE` prints what is
behind its link: what it means, an example that raises it, and the example mended. Every example is
run by the tests.
"""


def errors_page() -> str:
    """The page of every code, with links to what is said of them."""
    parts = [HEAD]
    for letter, name in FAMILIES.items():
        text = page(letter)
        heading = text.partition("\n")[0].removeprefix("# ")
        parts.append(f"\n## {letter}: {heading}\n\n| code | |\n|---|---|\n")
        for entry in entries(text):
            anchor = _anchor(f"{entry.code}: {entry.title}")
            parts.append(f"| [{entry.code}]({PAGES}/{name}.md#{anchor}) | {entry.title} |\n")
    return "".join(parts)


def _anchor(heading: str) -> str:
    """The name that a heading has in links to it, as GitHub and others make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


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
    architecture = HERE / "architecture.md"
    shown = with_region(architecture.read_text("utf-8"), "picture", picture())
    return {
        architecture: with_region(shown, "folders", folders_table()),
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
