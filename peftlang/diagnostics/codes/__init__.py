"""The codes of all diagnostics, and what is said of each: one page of Markdown for each family.

An entry is a heading of the second level, what it means, and either an example that raises it,
with a mended one where there is one, or the paragraph that begins with "For example:":

    ## T201: shapes that do not fit

    An operator's operands have no dimensions in common.

    ```peft code=T201
    …
    ```

    Mended:

    ```peft
    …
    ```

The tests run what stands in the fences. The pages are read when a code is asked for.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

# In this order a page of all of them has them; the first letter of a code is its family's.
FAMILIES = {
    "P": "syntax",
    "N": "names",
    "T": "types",
    "M": "methods",
    "S": "sites",
    "R": "runtime",
    "D": "disk",
    "C": "command",
    "V": "verifying",
    "I": "interop",
}

_ENTRY = re.compile(r"^## (?P<code>\w+): (?P<title>.+)\n(?P<body>(?:(?!## ).*\n)*)", re.MULTILINE)
_FENCE = re.compile(r"^```[^\n`]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Code:
    """A stable name for one kind of mistake.

    Args:
        code: a letter for the family and three digits; never used again for another meaning.
        title: a few words, as in a table of contents.
        explanation: why this is an error and how it is mended, a short paragraph.
        example: where `runs` is true, a spec that `peftlang check` answers with exactly this
            code; otherwise the situation in words.
        fixed: the example, mended: a spec with no error. None where there is no such text.
        runs: whether `example` (and `fixed`) are specs that the tests put through the checker.
    """

    code: str
    title: str
    explanation: str
    example: str
    fixed: str | None
    runs: bool


def page(letter: str) -> str:
    """The page of a family."""
    from importlib.resources import files  # 5 ms, which most commands need not wait for

    return files(__name__).joinpath(f"{FAMILIES[letter]}.md").read_text("utf-8")


def entries(text: str) -> list[Code]:
    """The entries of a page, in order."""
    return [_entry(found["code"], found["title"], found["body"]) for found in _ENTRY.finditer(text)]


def _entry(code: str, title: str, body: str) -> Code:
    texts = [found["text"] for found in _FENCE.finditer(body)]
    if not texts:
        explanation, _, example = body.partition("\n\nFor example: ")
        return Code(code, title, explanation.strip(), example.strip(), None, runs=False)
    explanation = body.partition("```")[0].strip()
    return Code(code, title, explanation, texts[0], texts[1] if texts[1:] else None, runs=True)


@cache
def _all() -> dict[str, Code]:
    return {entry.code: entry for letter in FAMILIES for entry in entries(page(letter))}


class _Codes(Mapping[str, Code]):
    """Every entry by its code; the pages are read when the first one is asked for."""

    def __getitem__(self, code: str) -> Code:
        return _all()[code]

    def __iter__(self) -> Iterator[str]:
        return iter(_all())

    def __len__(self) -> int:
        return len(_all())


CODES: Mapping[str, Code] = _Codes()


def explain(code: str) -> str:
    """The entry of a code as a page of text. Raises KeyError for a code that does not exist."""
    entry = CODES[code]
    parts = [f"{entry.code}: {entry.title}", entry.explanation]
    parts.append("For example:\n\n" + _indented(entry.example))
    if entry.fixed is not None:
        parts.append("Mended:\n\n" + _indented(entry.fixed))
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    lines = text.strip("\n").split("\n")
    return "\n".join("    " + line if line else "" for line in lines)
