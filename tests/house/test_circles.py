"""No module imports, by whatever way, a module that imports it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """What a module imports: late, and under TYPE_CHECKING, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name of a package is a module of it, or stands in its __init__.
            yield from names & known or {node.module}


def circle(files: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle; empty where none do."""
    graph = {name: set(imported(ast.parse(text), set(files))) for name, text in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", ["diagnostics", "syntax", "verifying"])
def test_no_imports_go_in_a_circle(package: str) -> None:
    paths = (ROOT / "peftlang" / package).rglob("*.py")
    assert circle({module(path): path.read_text("utf-8") for path in paths}) == []


@pytest.mark.parametrize(
    "late",
    [
        "import p.a",
        "from p import a",
        "def f():\n    from p.a import x",
        "if TYPE_CHECKING:\n    from p.a import x",
    ],
)
def test_a_circle_is_seen(late: str) -> None:
    files = {"p": "", "p.a": "from p.b import y", "p.b": "from p.c import z", "p.c": late}
    assert set(circle(files)) == {"p.a", "p.b", "p.c"}
    assert circle({**files, "p.c": "from p import elsewhere"}) == []
