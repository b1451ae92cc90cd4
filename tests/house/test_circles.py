"""Inside a layer: modules import each other in one direction, for type checkers too."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.house.test_layers import ROOT, imported, sources

FREE = ("verifying",)
"""Layers in which no modules import each other in a circle."""

ORDER = {"verifying": ("references", "checks")}
"""Folders of a layer, from the one that imports no other of them."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(text: str, known: Iterable[str]) -> set[str]:
    """Modules that a module imports, `if TYPE_CHECKING` and inside functions included."""
    tree = ast.parse(text)
    found = {name for _, name in imported(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(known)


def circle(graph: Mapping[str, set[str]]) -> set[str]:
    """Modules that are part of a circle, or only reach ones that are."""
    left = dict(graph)
    while True:
        ends = {name for name, below in left.items() if not below & left.keys()}
        if not ends:
            return set(left)
        left = {name: below for name, below in left.items() if name not in ends}


def graph_of(layer: str) -> dict[str, set[str]]:
    texts = {name_of(p): p.read_text("utf-8") for p in sources()}
    own = {
        name: text for name, text in texts.items() if f"{name}.".startswith(f"peftlang.{layer}.")
    }
    return {name: imports_of(text, own) for name, text in own.items()}


@pytest.mark.parametrize("layer", FREE)
def test_no_modules_import_each_other_in_a_circle(layer: str) -> None:
    assert circle(graph_of(layer)) == set()


@pytest.mark.parametrize("layer", ORDER)
def test_folders_of_a_layer_keep_their_order(layer: str) -> None:
    for later, folder in enumerate(ORDER[layer]):
        inside = f"peftlang.{layer}.{folder}."
        above = tuple(f"peftlang.{layer}.{other}." for other in ORDER[layer][later + 1 :])
        for name, below in graph_of(layer).items():
            if name.startswith(inside):
                assert not [one for one in below if one.startswith(above)], name


def test_a_circle_is_seen() -> None:
    known = ("a.b", "a.c", "a.d")
    for text in (
        "from a import c",
        "import a.c",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.c import X",
        "def late():\n    from a.c import x",
    ):
        assert imports_of(text, known) == {"a.c"}
    assert circle({"a.b": {"a.c"}, "a.c": {"a.b"}, "a.d": {"a.b"}}) == {"a.b", "a.c", "a.d"}
    assert circle({"a.b": {"a.c"}, "a.c": {"a.d"}, "a.d": set()}) == set()
