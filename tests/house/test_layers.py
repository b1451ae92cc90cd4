"""The layers: who may import whom, in one table, against every import in the tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each layer may import itself, the layers it lists, and the packages it lists. A sub-module
# (a.b) stands for itself alone.
LAYERS: dict[str, set[str]] = {
    "grammar": set(),
    "diagnostics": {"rich"},
    "syntax": {"diagnostics", "grammar", "lark"},
    "ir": {"diagnostics", "pydantic", "pydantic_core", "networkx"},
    "lower": {"syntax", "ir", "diagnostics", "specs"},
    "specs": set(),
    "capture": {"ir", "diagnostics", "torch", "transformers"},
    "passes": {"ir", "diagnostics", "capture", "torch", "networkx"},
    "runtime": {"ir", "diagnostics", "capture", "passes", "torch", "safetensors"},
    "models": {"ir", "diagnostics", "torch", "transformers"},
    "pipeline": {
        "diagnostics",
        "syntax",
        "ir",
        "lower",
        "capture",
        "passes",
        "runtime",
        "models",
        "torch",
    },
    "merging": {"diagnostics", "ir", "passes", "runtime", "pipeline", "torch"},
    "interop": {
        "diagnostics",
        "syntax",
        "ir",
        "lower",
        "passes",
        "runtime",
        "pipeline",
        "merging",
        "torch",
        "safetensors",
    },
    "verifying": {
        "diagnostics",
        "ir",
        "lower",
        "passes",
        "runtime",
        "models",
        "pipeline",
        "merging",
        "interop",
        "torch",
        "hypothesis",
    },
    "cli": {
        "diagnostics",
        "syntax",
        "ir",
        "lower",
        "models",
        "passes",
        "pipeline",
        "merging",
        "verifying",
        "interop",
        "__init__",
        "typer",
        "rich",
        "torch",
        "safetensors",
    },
    "__init__": {"runtime", "diagnostics", "pipeline", "merging", "verifying", "interop"},
    "__main__": {"cli"},
}

TORCH_FREE = ("grammar", "diagnostics", "syntax", "ir", "lower", "specs")
HEAVY = {"torch", "transformers", "sympy", "numpy"}

STANDARD = set(__import__("sys").stdlib_module_names)


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "peftlang" else parts[0]


def sources() -> list[Path]:
    inside = [p for p in (ROOT / "peftlang").rglob("*.py") if not _through_symlink(p)]
    outside = [p for top in ("grammar", "passes", "specs") for p in (ROOT / top).rglob("*.py")]
    return sorted(inside + outside)


def _through_symlink(path: Path) -> bool:
    return any(
        (ROOT / "peftlang" / name) in path.parents for name in ("grammar", "passes", "specs")
    )


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "peftlang":
                yield from ((node.lineno, f"peftlang.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def targets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and layer or package of every import that is not the standard library's."""
    for line, name in imported(tree):
        head, _, rest = name.partition(".")
        if name.startswith("."):
            yield line, "a relative import"
        elif head == "peftlang":
            yield line, rest.partition(".")[0] or "__init__"
        elif head not in STANDARD:
            yield line, head


def violations(path: Path, text: str) -> list[str]:
    layer = layer_of(path)
    allowed = LAYERS.get(layer)
    if allowed is None:
        return [f"{path}: {layer} is in no layer; give it one in LAYERS"]
    return [
        f"{path.relative_to(ROOT)}:{line}: {layer} may not import {target}"
        for line, target in targets(ast.parse(text))
        if target != layer and target not in allowed
    ]


def test_imports_go_upward_only() -> None:
    found = [problem for path in sources() for problem in violations(path, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_table_has_no_cycle() -> None:
    placed: set[str] = set()
    waiting = {layer: above & set(LAYERS) for layer, above in LAYERS.items()}
    while waiting:
        ready = [layer for layer, above in waiting.items() if above <= placed]
        assert ready, f"these layers import each other in a circle: {sorted(waiting)}"
        placed.update(ready)
        for layer in ready:
            del waiting[layer]


def test_nothing_above_the_line_may_import_torch() -> None:
    for layer in TORCH_FREE:
        assert not LAYERS[layer] & HEAVY, layer


def test_only_capture_touches_dynamo() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        for _, name in imported(ast.parse(path.read_text("utf-8")))
        if name.startswith("torch._dynamo")
    }
    assert {user for user in users if not user.startswith("peftlang/capture/")} == set()


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("syntax", "from peftlang.ir import Dim"),
        ("ir", "import torch.nn"),
        ("lower", "def late():\n    from peftlang import pipeline"),
        ("passes", "from peftlang.runtime.adapted import Adapted"),
        ("diagnostics", "from . import spans"),
    ],
)
def test_the_walk_sees_each_kind_of_breach(layer: str, text: str) -> None:
    top = ROOT if layer == "passes" else ROOT / "peftlang"
    assert violations(top / layer / "made_up.py", text)
