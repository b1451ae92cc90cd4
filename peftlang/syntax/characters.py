"""Mistakes below the level of tokens: characters, quotes, numbers."""

import math
import re
import unicodedata

from peftlang.diagnostics import Diagnostic, Source, Span

# Control characters, lone surrogates (bytes that were not UTF-8), and the marks that make a
# text read differently from what it is.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
# A run of these is one mistake, not many.
_STRANGE = re.compile(r"""[^ \t\r\n#"A-Za-z_0-9,{}():=~\[\].<>+\-*/@'^;!%&|?$`\\]+""")

_LONGEST_NUMBER = 64

_MEANT = {
    "'": 'text is written in double quotes, `"`',
    "^": "a power is written `**`",
    ";": "clauses stand on lines of their own, with nothing between",
    "!": "different is written `!=`",
    "&": "write `and`",
    "|": "write `or`",
    "\u00d7": "write `*`",
    "\u2022": "write `*`",
    "\u22c5": "write `*`",
    "\u2299": "write `*`",
    "\u2212": "write `-`",
    "\u2013": "write `-`",
    "\u2014": "write `-`",
    "\u2264": "write `<=`",
    "\u2265": "write `>=`",
    "\u2260": "write `!=`",
    "\u201c": 'write `"`',
    "\u201d": 'write `"`',
    "\u2018": 'write `"`',
    "\u2019": 'write `"`',
    "\u2026": "a range is written `..`",
    "\u00a0": "write a plain space",
}


def forbidden(source: Source, start: int, end: int) -> Diagnostic | None:
    """A character that no comment or quoted text may hold, if there is one in the interval."""
    match = _FORBIDDEN.search(source.text, start, end)
    return None if match is None else _not_text(source, match.start(), match.start() + 1)


def unreadable(source: Source, at: int) -> tuple[Diagnostic, int]:
    """Why no token starts at `at`, and the offset from which to go on."""
    character = source.text[at]
    if character == '"':
        end = source.line_around(at).end
        return (
            Diagnostic(
                "P002",
                "this text has no closing quote on its line",
                source,
                Span(at, max(end, at + 1)),
                help='add `"` at its end',
            ),
            max(end, at + 1),
        )
    if _FORBIDDEN.match(character):
        run = at + 1
        while run < len(source.text) and _FORBIDDEN.match(source.text[run]):
            run += 1
        return _not_text(source, at, run), run
    match = None if character in _MEANT else _STRANGE.match(source.text, at)
    end = match.end() if match else at + 1
    if character == "'":
        end = _single_quoted(source, at)
    if match:
        found = _FORBIDDEN.search(source.text, at, end)
        end = found.start() if found else end
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    return (
        Diagnostic(
            "P001",
            f"`{shown}` has no meaning here",
            source,
            Span(at, end),
            help=_meant(character),
        ),
        end,
    )


def _single_quoted(source: Source, at: int) -> int:
    """The end of a text in single quotes, if it has one on its line."""
    line_end = source.line_around(at).end
    closing = source.text.find("'", at + 1, line_end)
    return at + 1 if closing < 0 or forbidden(source, at, closing) else closing + 1


def _not_text(source: Source, start: int, end: int) -> Diagnostic:
    value = ord(source.text[start])
    if 0xDC80 <= value <= 0xDCFF:
        what, mend = f"byte 0x{value - 0xDC00:02X} is not UTF-8", "save the file as UTF-8"
    else:
        what, mend = f"the control character U+{value:04X} is not text", "take it out"
    return Diagnostic("P005", what, source, Span(start, end), help=mend)


def _meant(character: str) -> str | None:
    if character in _MEANT:
        return _MEANT[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK "):
        spelt = name.split()[-1].lower().replace("lamda", "lambda")
        return f"names are written in Latin letters: `{spelt}`"
    if character.isalpha():
        return "names are written with the letters a to z, digits and `_`"
    return None


def unclosed_docstring(source: Source, start: int) -> Diagnostic:
    """For triple quotes after which there are no others."""
    return Diagnostic(
        "P003",
        "this docstring is never closed",
        source,
        Span(start, start + 3),
        help='add `"""` at its end',
    )


def number(source: Source, start: int, end: int, stuck: int) -> Diagnostic | None:
    """What is wrong with the number `start..end`, which letters follow up to `stuck`."""
    text = source.text[start:end]
    if stuck > end:
        tail = source.text[end:stuck]
        return Diagnostic(
            "P004",
            f"`{source.text[start:stuck][:40]}` is not a number",
            source,
            Span(start, stuck),
            help=f"a product is written `{text} * {tail}`" if len(tail) < 20 else None,
        )
    if len(text) > _LONGEST_NUMBER:
        return Diagnostic("P004", "this number is too long", source, Span(start, end))
    if not text.isdigit() and math.isinf(float(text)):
        return Diagnostic("P004", "this number is too large", source, Span(start, end))
    return None
