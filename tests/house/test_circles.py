"""No module imports, by whatever way, a module that imports it."""

from graphlib import CycleError, TopologicalSorter

import pytest

from docs.imports import module_of, modules, sources


def circle(files: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle; empty where none do."""
    graph = {name: modules(text, files.keys()) - {name} for name, text in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_imports_go_in_a_circle() -> None:
    files = {module_of(path): path.read_text("utf-8") for path in sources()}
    assert len(files) == len(sources()) > 250
    assert circle(files) == []


@pytest.mark.parametrize(
    "late",
    [
        "import p.a",
        "from p import a",
        "def f():\n    from p.a import x",
        "if TYPE_CHECKING:\n    from p.a import x",
        "import_module('p.a')",
    ],
)
def test_a_circle_is_seen(late: str) -> None:
    files = {"p": "", "p.a": "from p.b import y", "p.b": "from p.c import z", "p.c": late}
    assert set(circle(files)) == {"p.a", "p.b", "p.c"}
    assert circle({**files, "p.c": "from p import elsewhere"}) == []


def test_a_name_that_is_made_at_run_time_may_be_any_of_its_package() -> None:
    files = {
        "peftlang.p": "",
        "peftlang.p.a": "import_module(f'peftlang.p.{name}')",
        "peftlang.p.b": "from peftlang.p.a import x",
    }
    assert set(circle(files)) == {"peftlang.p.a", "peftlang.p.b"}
