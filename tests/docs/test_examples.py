"""Every example that the documentation shows, run as it is shown.

The blocks of one page run in order in one empty folder:

- ```peft``` is checked; with a file's name after it, it is written there as well; with
  `code=CODE` the check must find exactly that code; with `syntax` it need only parse.
- ```python``` is executed; the blocks of a page share their names. With a file's name after it, it
  is written there instead.
- ```console``` runs each `$ peftlang …` line and compares what is printed with the lines below
  it (`...` stands for any lines). Lines with other programs are for the reader.
"""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from docs.blocks import Block, blocks, commands, matches
from peftlang.cli import main

CODE = re.compile(r"^(error|warning)\[(\w+)\]")
ROOT = Path(__file__).resolve().parents[2]
CODES = ROOT / "peftlang" / "diagnostics" / "codes"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CODES.glob("*.md")])


def run_command(line: str) -> tuple[int, list[str]]:
    """Exit code and lines of a command: those of stdout, then those of stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(shlex.split(line)[1:])
    printed = out.getvalue() + err.getvalue()
    return code, [text.rstrip() for text in printed.rstrip("\n").split("\n") if printed]


class Page:
    """One page while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text("utf-8")
        self.names: dict[str, Any] = {"__name__": path.stem}
        self.replaced: list[tuple[tuple[int, int], str]] = []

    def run(self, block: Block, *, update: bool) -> None:
        if block.language == "peft":
            self.peft(block)
        elif block.language == "python" and block.words:
            Path(block.words[0]).write_text(block.text)
        elif block.language == "python":
            source = "\n" * block.line + block.text
            exec(compile(source, str(self.path), "exec"), self.names)
        elif block.language == "console":
            self.console(block, update=update)

    def peft(self, block: Block) -> None:
        wanted = [w.removeprefix("code=") for w in block.words if w.startswith("code=")]
        files = [w for w in block.words if w.endswith(".peft")]
        target = Path(files[0] if files else "block.peft")
        target.write_text(block.text)
        command = "fmt --check" if "syntax" in block.words else "check"
        _, printed = run_command(f"peftlang {command} {target}")
        found = {pair for line in printed for pair in CODE.findall(line)}
        where = f"{self.path.name}:{block.line}\n" + "\n".join(printed)
        assert set(wanted) <= {code for _, code in found}, where
        assert {code for kind, code in found if kind == "error"} <= set(wanted), where

    def console(self, block: Block, *, update: bool) -> None:
        shown: list[str] = []
        for command in commands(block.text):
            expected = list(command.shown)
            if shlex.split(command.line)[0] == "peftlang":
                _, printed = run_command(command.line)
                if not matches(command.shown, printed):
                    assert update, f"{self.path.name}:{block.line}: {command.line}\n" + "\n".join(
                        printed
                    )
                    expected = printed
            shown += [f"$ {command.line}", *expected]
        self.replaced.append((block.span, "\n".join(shown) + "\n"))

    def rewritten(self) -> str:
        text = self.text
        for (start, end), new in reversed(self.replaced):
            text = text[:start] + new + text[end:]
        return text


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update_golden: bool
) -> None:
    import torch

    torch.compiler.reset()  # sizes that other tests made dynamic are static for a reader
    monkeypatch.chdir(tmp_path)
    page = Page(path)
    for block in blocks(page.text):
        page.run(block, update=update_golden)
    if update_golden:
        path.write_text(page.rewritten(), encoding="utf-8")


def test_every_fence_is_a_block() -> None:
    for path in PAGES:
        text = path.read_text("utf-8")
        fences = sum(line.startswith("```") for line in text.splitlines())
        assert fences == 2 * len(list(blocks(text))), path


def test_a_wildcard_stands_for_any_lines() -> None:
    assert matches(("a", "...", "d"), ["a", "b", "c", "d"])
    assert matches(("...",), [])
    assert not matches(("a", "...", "d"), ["a", "b", "c"])
    assert not matches((), ["a"])


def test_a_wrong_example_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text("```console\n$ peftlang --version\npeftlang 0\n```\n")
    shown = Page(page)
    with pytest.raises(AssertionError, match="peftlang --version"):
        shown.run(next(blocks(shown.text)), update=False)
