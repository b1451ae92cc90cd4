"""The layers: who may import whom, in one table, against every import in the tree."""

from pathlib import Path

import pytest

from docs.imports import ROOT, TOPS, arrows, folder_of, folders, imported, sources
from docs.layers import ALLOWED, LAYERS

HEAVY = {"torch", "transformers", "safetensors", "networkx", "numpy"}


def violations(path: Path, text: str) -> list[str]:
    own = folder_of(path)
    allowed = ALLOWED.get(own)
    if allowed is None:
        return [f"{path}: {own} is in no layer; give it one in docs/layers.py"]
    return [
        f"{path.relative_to(ROOT)}:{line}: {own} may not import {target}"
        for line, target in folders(text)
        if target != own and target not in allowed
    ]


def test_every_folder_has_a_layer() -> None:
    assert set(arrows()) == set(ALLOWED)


def test_a_folder_imports_what_the_table_says() -> None:
    found = [problem for path in sources() for problem in violations(path, path.read_text("utf-8"))]
    assert not found, "\n".join(found)


def test_the_table_allows_nothing_that_nobody_imports() -> None:
    unused = {folder: sorted(ALLOWED[folder] - found) for folder, found in arrows().items()}
    assert not {folder: names for folder, names in unused.items() if names}


def test_a_folder_imports_only_those_above_it() -> None:
    above: set[str] = set()
    for folder, allowed in ALLOWED.items():
        assert not allowed & (set(ALLOWED) - above), f"{folder} imports what stands below it"
        above.add(folder)


def test_what_reads_specs_imports_no_tensor_library() -> None:
    for folder in LAYERS[0].folders:
        assert not ALLOWED[folder] & HEAVY, folder


def test_what_writes_methods_knows_nothing_of_what_runs_them() -> None:
    for folder in LAYERS[2].folders:
        assert not ALLOWED[folder] & {"runtime", "pipeline"}, folder


def test_only_those_who_run_passes_import_them() -> None:
    assert {f for f, allowed in ALLOWED.items() if "passes" in allowed} == {"pipeline", "merging"}


def test_nothing_imports_the_compiler_of_torch() -> None:
    """A model is read, and an adapted one runs, without TorchDynamo.

    While TorchDynamo traces, it is there, and says which errors it hands on.
    """
    private = ("torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd")
    users = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources()
        for line, name in imported(path.read_text("utf-8"))
        if name.startswith(private)
    }
    assert {user.partition(":")[0] for user in users} == {"peftlang/runtime/seams.py"}


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("syntax", "from peftlang.ir import Dim"),
        ("ir", "import torch.nn"),
        ("lower", "def late():\n    from peftlang import pipeline"),
        ("lower", "if TYPE_CHECKING:\n    from peftlang.sites.survey import Survey"),
        ("passes", "from peftlang.runtime.registry import Registry"),
        ("emit", "HOME = 'peftlang.runtime.registry'"),
        ("ir", "import_module('torch')"),
        ("diagnostics", "from . import spans"),
        ("unheard", ""),
    ],
)
def test_each_kind_of_breach_is_seen(folder: str, text: str) -> None:
    top = ROOT if folder in TOPS else ROOT / "peftlang"
    assert violations(top / folder / "made_up.py", text)
