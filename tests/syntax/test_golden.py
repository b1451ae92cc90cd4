"""Texts beside what they become: a tree (.ast), a layout (.fmt), or diagnostics (.diag)."""

from pathlib import Path

import pytest

from peftlang.diagnostics import PeftError, Source, render
from peftlang.syntax import format_file, format_source, parse
from tests.syntax.dump import dump

FOLDER = Path(__file__).parent / "golden"
RIGHT = sorted((FOLDER / "right").glob("*.peft"))
WRONG = sorted((FOLDER / "wrong").glob("*.peft"))


def source(path: Path) -> Source:
    return Source.from_bytes(path.name, path.read_bytes())


def same(path: Path, text: str, update: bool) -> None:
    if update:
        path.write_text(text, "utf-8")
    assert path.exists(), f"{path.name} is missing; run with --update-golden"
    assert text == path.read_text("utf-8")


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RIGHT, ids=name)
def test_tree(path: Path, update_golden: bool) -> None:
    file, diagnostics = parse(source(path))
    assert not diagnostics, render(diagnostics)
    same(path.with_suffix(".ast"), dump(file), update_golden)


@pytest.mark.parametrize("path", RIGHT, ids=name)
def test_layout(path: Path, update_golden: bool) -> None:
    text = format_source(source(path))
    same(path.with_suffix(".fmt"), text, update_golden)
    again, diagnostics = parse(Source(path.name, text))
    assert not diagnostics
    assert again == parse(source(path))[0]
    assert format_file(again) == text


@pytest.mark.parametrize("path", WRONG, ids=name)
def test_diagnostics(path: Path, update_golden: bool) -> None:
    _, diagnostics = parse(source(path))
    assert diagnostics
    text = render(diagnostics)
    same(path.with_suffix(".diag"), text, update_golden)
    with pytest.raises(PeftError) as caught:
        format_source(source(path))
    assert str(caught.value) == text
    assert caught.value.diagnostics == tuple(diagnostics)


def test_every_expected_file_has_its_text() -> None:
    assert RIGHT
    assert WRONG
    for folder, texts in (("right", RIGHT), ("wrong", WRONG)):
        assert {path.stem for path in (FOLDER / folder).iterdir()} == set(map(name, texts))
