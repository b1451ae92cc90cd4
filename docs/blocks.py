"""Fenced blocks of a Markdown page: what the documentation shows, as data."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Args:
        language: The first word of its information string; empty for none.
        words: The other words, such as a file's name.
        text: What is between the fences.
        line: The line of the opening fence, counted from 1.
        span: Offsets of `text` in the page.
    """

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block, and the output that the page shows below it."""

    line: str
    shown: tuple[str, ...]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in _FENCE.finditer(page):
        language, *words = found["info"].split() or [""]
        line = page.count("\n", 0, found.start()) + 1
        yield Block(language, tuple(words), found["text"], line, found.span("text"))


def commands(text: str) -> list[Command]:
    """The commands of a console block: lines that begin with `$ `, each with what follows it."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0].removesuffix(chr(92))} {line.strip()}", found[-1][1])
        elif found:
            found[-1][1].append(line)
    return [Command(line, tuple(shown)) for line, shown in found]


def matches(shown: tuple[str, ...], printed: list[str]) -> bool:
    """Whether a page shows what was printed; a line of `...` stands for any lines."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(matches(shown[1:], printed[skip:]) for skip in range(len(printed) + 1))
    return bool(printed) and shown[0] == printed[0] and matches(shown[1:], printed[1:])
