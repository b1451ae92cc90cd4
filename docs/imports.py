"""What imports what in the package: every module, and every import in it, by whatever way."""

import ast
import re
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TOPS = ("grammar", "passes", "specs")
"""Folders at the top level that are sub-packages of ``peftlang``; links in it lead to them."""

ITSELF = "peftlang"
"""What stands for ``peftlang/__init__.py``, which re-exports."""

_DOTTED = re.compile(r"peftlang(\.\w+)+\.?")
_BY_NAME = frozenset({"import_module", "find_spec", "files"})


@cache
def sources() -> tuple[Path, ...]:
    """Every file of Python that the wheel has, once."""
    links = {ROOT / "peftlang" / top for top in TOPS}
    inside = (p for p in (ROOT / "peftlang").rglob("*.py") if not links & set(p.parents))
    outside = (p for top in TOPS for p in (ROOT / top).rglob("*.py"))
    return tuple(sorted((*inside, *outside)))


def module_of(path: Path) -> str:
    """The dotted name of a file's module: ``peftlang.passes.insert``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "peftlang" else ["peftlang", *parts])


def folder_of(path: Path) -> str:
    """The folder, or single file, right below ``peftlang`` that a file belongs to."""
    return (*module_of(path).split("."), ITSELF)[1]


@cache
def _folders() -> frozenset[str]:
    return frozenset(map(folder_of, sources()))


def imported(text: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a text imports.

    Imports within functions and under ``TYPE_CHECKING`` are imports. So are names of the package's
    modules in strings, and names given to what imports by name; one that ends with a dot is the
    start of a name that is made at run time. What is taken from a module by ``from`` stands behind
    a dot, as a module of its own would.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _DOTTED.fullmatch(node.value):
                yield node.lineno, node.value
        elif isinstance(node, ast.Call) and _called(node) in _BY_NAME:
            given = node.args[0] if node.args else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                yield node.lineno, given.value


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def modules(text: str, known: Collection[str]) -> set[str]:
    """The modules among ``known`` that a text imports."""
    found: set[str] = set()
    for _, name in imported(text):
        if name.endswith("."):
            found.update(o for o in known if o.startswith(name) and "__main__" not in o)
            continue
        # What is taken from a package is a module of it, or stands in its __init__.
        found.add(name if name in known else name.rpartition(".")[0])
    return found & set(known)


def folders(text: str) -> Iterator[tuple[int, str]]:
    """Line and folder, or package from elsewhere, of every import but the standard library's."""
    for line, name in imported(text):
        head = name.partition(".")[0]
        if not head:
            yield line, "a relative import"
        elif head == "peftlang":
            first = (*name.split("."), ITSELF)[1]
            yield line, first if first in _folders() else ITSELF
        elif head not in sys.stdlib_module_names:
            yield line, head


@cache
def arrows() -> dict[str, frozenset[str]]:
    """For each folder what its files import: other folders, and packages from elsewhere."""
    found: dict[str, set[str]] = {}
    for path in sources():
        own = folder_of(path)
        targets = {target for _, target in folders(path.read_text("utf-8"))}
        found.setdefault(own, set()).update(targets - {own})
    return {folder: frozenset(targets) for folder, targets in sorted(found.items())}
