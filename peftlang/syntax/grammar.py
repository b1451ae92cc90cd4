"""The parser that lark makes of the grammar, kept beside it as Python keeps its bytecode."""

import sys
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.util import cache_from_source
from pathlib import Path

from lark import Lark, Token
from lark.lark import PostLex
from lark.parsers.lalr_interactive_parser import InteractiveParser

from peftlang.syntax.build import Build


class _Comments(PostLex):
    """Comments come out of the lexer with the other tokens; the grammar knows nothing of them."""

    always_accept = ("COMMENT",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        return stream


def interactive(text: str = "") -> InteractiveParser:
    """A parser that is fed by hand, and a lexer (its `lexer_thread`) of `text`."""
    return _language().parse_interactive(text)


@cache
def _language() -> Lark:
    path = files("peftlang.grammar").joinpath("peft.lark")
    return made(path.read_text("utf-8"), path if isinstance(path, Path) else None)


def made(grammar: str, path: Path | None) -> Lark:
    """The parser of a grammar: read where it was kept, else made (about 0.1 s) and kept.

    It is kept where Python keeps the bytecode of a module at `path`. lark makes it again for
    another grammar, another version of lark, and a damaged file. Where nothing can be written
    there, or Python is told to write no bytecode, it is made each time.
    """
    kept: str | bool = False
    if path is not None and not sys.dont_write_bytecode:
        kept = cache_from_source(str(path)).removesuffix(".pyc") + ".tables"
    return Lark(
        grammar,
        parser="lalr",
        # Which words are keywords is asked of the parser's state, as lark's contextual lexer
        # does, but by `Reader`, which sees the tokens that follow as well: in an unfinished
        # clause they tell that the next one has begun, and the contextual lexer would go on
        # to take its keyword for a name.
        lexer="basic",
        postlex=_Comments(),
        transformer=Build(),
        keep_all_tokens=True,
        cache=kept,
    )
