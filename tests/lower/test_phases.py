"""The files of the checker: phases that import each other one way, short, and one walk for all."""

import ast
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from peftlang.lower import library_names
from peftlang.lower.load import library_source
from peftlang.lower.walk import children, names_read, operands, walk
from peftlang.syntax import nodes as n
from peftlang.syntax import parse, parse_text

ROOT = Path(__file__).resolve().parents[2]


def imports(folder: str) -> dict[str, set[str]]:
    """For each module of a package, those of the same package that it imports anywhere in it."""
    package = ROOT / "peftlang" / folder
    found: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        inside = path.relative_to(package).with_suffix("").as_posix().removesuffix("/__init__")
        found[inside] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                head, _, rest = node.module.partition(f"peftlang.{folder}")
                if not head and rest != node.module:
                    found[inside].add(rest.lstrip(".").replace(".", "/") or "__init__")
    return found


def circle(found: dict[str, set[str]]) -> set[str]:
    """Modules that no order of imports can place."""
    left = {name: set(read) & set(found) for name, read in found.items()}
    while ready := {name for name, read in left.items() if not read}:
        left = {name: read - ready for name, read in left.items() if name not in ready}
    return set(left)


@pytest.mark.parametrize("folder", ["lower", "ir"])
def test_no_circles_not_even_for_types(folder: str) -> None:
    assert circle(imports(folder)) == set()


def test_a_circle_would_be_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}
    assert {"report", "load"} <= imports("lower")["flatten"]


def test_no_file_is_longer_than_one_sitting() -> None:
    for path in (ROOT / "peftlang" / "lower").glob("*.py"):
        assert len(path.read_text("utf-8").splitlines()) <= 400, path.name


def test_the_docstring_names_every_file() -> None:
    text = import_module("peftlang.lower").__doc__ or ""
    for path in (ROOT / "peftlang" / "lower").glob("[!_]*.py"):
        assert f"`{path.stem}`" in text, path.name


def every_node(value: Any) -> list[n.Node]:
    """All nodes below anything, found without knowing what has children."""
    if isinstance(value, tuple):
        return [node for item in value for node in every_node(item)]
    if not is_dataclass(value):
        return []
    below = [node for f in fields(value) for node in every_node(getattr(value, f.name))]
    return [*below, value] if isinstance(value, n.Node) else below


@pytest.mark.parametrize("name", library_names())
def test_the_walk_reaches_every_node_once_and_its_children_before_it(name: str) -> None:
    source = library_source(name)
    assert source is not None
    tree, _ = parse(source)
    found = [id(node) for node in walk(tree)]
    assert len(found) == len(set(found))
    assert set(found) == {id(node) for node in every_node(tree)}
    place = {node: number for number, node in enumerate(found)}
    assert all(place[id(c)] < place[id(node)] for node in walk(tree) for c in children(node))


def test_operands_and_names() -> None:
    text = "method m { let u = f(a @ b, -c, over d_e, key = g) + T[i]\n function v = u }"
    tree, problems = parse_text(text)
    assert not problems
    (method,) = tree.items
    assert isinstance(method, n.Method)
    let = method.clauses[0]
    assert isinstance(let, n.Let)
    total = let.value
    assert isinstance(total, n.Binary)
    assert [type(o).__name__ for o in operands(total.left)] == ["Binary", "Unary", "Name"]
    assert sorted(names_read(let)) == ["T", "a", "b", "c", "d_e", "f", "g", "i"]


def test_one_layer_is_one_end() -> None:
    tree, _ = parse_text("method m { position attn.q in layers[k]\n composition h = h }")
    assert [node.text for node in walk(tree) if isinstance(node, n.Name)] == ["k", "h"]
