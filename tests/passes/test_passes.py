"""Each pass, by what it does to small cases: its text before and after, and the numbers.

A case is three files in the folder of its pass:

- ``CASE.peft``, a spec;
- ``CASE.txt``, a transcript: a command line, and what it prints. ``--update-golden`` runs the
  command in the first line and rewrites what follows;
- ``CASE.py``, a reference: ``reference(model, tensors, inputs)`` gives what the adapted model
  should, from the plain model and the adapter's tensors, by PyTorch alone. A case that the
  command refuses has none.

A pass that can be left out is compared with the model compiled without it, too.
"""

import runpy
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang as library
from peftlang.models import PRESETS, build, example_inputs
from peftlang.pipeline import OPTIONAL, PASSES
from tests.cli.conftest import Command
from tests.passes.plain import output

HERE = Path(__file__).parent
FOLDERS = sorted(p.name for p in HERE.iterdir() if p.is_dir() and not p.name.startswith("_"))
CASES = [
    path.relative_to(HERE).with_suffix("")
    for name in FOLDERS
    for path in HERE.glob(f"{name}/*.txt")
]
OPTIONS = ("--print-before", "--print-after")


@dataclass(frozen=True)
class Case:
    """A case.

    Args:
        pass_: The pass that it is of.
        path: Its files, without a suffix.
        arguments: What the command is given.
        printed: What it prints.
    """

    pass_: str
    path: Path
    arguments: tuple[str, ...]
    printed: str

    @property
    def preset(self) -> str:
        """The model."""
        return self.arguments[self.arguments.index("--model") + 1]

    @property
    def is_refused(self) -> bool:
        """Whether the command prints an error."""
        return "\nerror[" in f"\n{self.printed}"


def case_at(path: Path) -> Case:
    """The case whose files begin so."""
    command, _, printed = (HERE / path).with_suffix(".txt").read_text("utf-8").partition("\n")
    dollar, program, *arguments = shlex.split(command)
    assert (dollar, program, arguments[0]) == ("$", "peftlang", "compile")
    return Case(path.parent.name, HERE / path, tuple(arguments), printed)


def written(path: Path) -> str:
    return (HERE / path).with_suffix(".peft").read_text("utf-8")


def test_every_pass_has_a_folder_and_every_folder_a_pass() -> None:
    assert sorted(FOLDERS) == sorted(PASSES)
    assert {case.parent.name for case in CASES} == set(PASSES)


def test_every_file_is_of_a_case() -> None:
    strays = [
        str(path.relative_to(HERE))
        for name in FOLDERS
        for path in (HERE / name).iterdir()
        if path.name != "__pycache__" and not path.with_suffix(".txt").exists()
    ]
    assert strays == []


@pytest.mark.parametrize("path", CASES, ids=str)
def test_text(
    path: Path,
    peftlang: Command,
    update_golden: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the command prints, to the letter."""
    case = case_at(path)
    assert [case.arguments[case.arguments.index(o) + 1] for o in OPTIONS] == [case.pass_] * 2
    monkeypatch.chdir(case.path.parent)
    ran = peftlang(*case.arguments, "-o", tmp_path / "out")
    printed = "".join(
        line for line in (ran.out + ran.err).splitlines(True) if not line.startswith("wrote ")
    )
    if update_golden:
        command = shlex.join(["peftlang", *case.arguments])
        case.path.with_suffix(".txt").write_text(f"$ {command}\n{printed}", "utf-8")
    else:
        assert printed == case.printed
    assert (tmp_path / "out").exists() == (ran.code == 0)
    assert ran.code in {0, 1}


def without_refused() -> list[Path]:
    return [path for path in CASES if not case_at(path).is_refused]


@pytest.mark.parametrize("path", without_refused(), ids=str)
def test_numbers(path: Path) -> None:
    """The adapted model gives what plain PyTorch does, and not what the base does."""
    case = case_at(path)
    inputs = drawn(case.preset)
    reference: Callable[..., Tensor] = runpy.run_path(str(case.path.with_suffix(".py")))[
        "reference"
    ]
    model, tensors = adapted(case)
    with torch.no_grad():
        found = output(model(**inputs))
        wanted = reference(plain(case.preset), tensors, inputs)
        base = output(plain(case.preset)(**inputs))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert (found - base).abs().max() > 1e-4


@pytest.mark.parametrize("path", [p for p in CASES if p.parent.name in OPTIONAL], ids=str)
def test_without_it(path: Path) -> None:
    """Left out, the pass is missed by nobody: outputs and gradients are the same."""
    case = case_at(path)
    inputs = drawn(case.preset)
    for training in (False, True):
        results = []
        for without in ((), (case.pass_,)):
            model, tensors = adapted(case, without=without)
            torch.manual_seed(0)
            result = output(model.train(training)(**inputs))
            trained = [t for t in tensors.values() if t.requires_grad]
            results.append((result, *torch.autograd.grad(result.square().sum(), trained)))
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def plain(preset: str) -> nn.Module:
    return build(preset).double()


def adapted(case: Case, **options: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model of a case in double precision, its adapter drawn at random, and its tensors."""
    model = library.compile(plain(case.preset), written(case.path), **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in library.adapters(model)["default"].parameters().values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise)
    return model, dict(library.adapters(model)["default"].parameters())


def drawn(preset: str) -> dict[str, Any]:
    """Inputs of a preset, drawn at random."""
    generator = torch.Generator().manual_seed(2)
    found: dict[str, Any] = {}
    for name, value in example_inputs(build(preset)).items():
        if not isinstance(value, Tensor) or "mask" in name:
            found[name] = value
        elif value.is_floating_point():
            found[name] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        else:
            found[name] = torch.randint(3, 150, value.shape, generator=generator)
    assert preset in PRESETS
    return found
