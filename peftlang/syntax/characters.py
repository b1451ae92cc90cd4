"""Mistakes below the level of tokens: characters, quotes, numbers."""

import math
import re
import unicodedata

from peftlang.diagnostics import Span
from peftlang.syntax.mistake import Mistake

# Control characters, lone surrogates (bytes that were not UTF-8), and the marks that make a
# text read differently from what it is.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
# A run of these is one mistake, not many.
_STRANGE = re.compile(r"""[^ \t\r\n#"A-Za-z_0-9,{}():=~\[\].<>+\-*/@'^;!%&|?$`\\]+""")
_LETTERS = re.compile(r"[A-Za-z_0-9]*")

_LONGEST_NUMBER = 64

_MEANT = {
    "'": 'text is written in double quotes, `"`',
    "^": "a power is written `**`",
    ";": "clauses stand on lines of their own, with nothing between",
    "!": "different is written `!=`",
    "&": "write `and`",
    "|": "write `or`",
    **dict.fromkeys("\u00d7\u2022\u22c5\u2299", "write `*`"),
    **dict.fromkeys("\u2212\u2013\u2014", "write `-`"),
    "\u2264": "write `<=`",
    "\u2265": "write `>=`",
    "\u2260": "write `!=`",
    **dict.fromkeys("\u201c\u201d\u2018\u2019", 'write `"`'),
    "\u2026": "a range is written `..`",
    "\u00a0": "write a plain space",
}


def forbidden(text: str, span: Span) -> Mistake | None:
    """A character that no comment or quoted text may hold, if there is one under the span."""
    match = _FORBIDDEN.search(text, span.start, span.end)
    return None if match is None else _not_text(text, match.start(), match.start() + 1)


def unreadable(text: str, at: int) -> Mistake:
    """Why no token starts at `at`; reading can go on after its span."""
    character = text[at]
    if character == '"':
        end = max(_line_end(text, at), at + 1)
        said = "this text has no closing quote on its line"
        return Mistake("P002", said, Span(at, end), 'add `"` at its end')
    if _FORBIDDEN.match(character):
        end = at + 1
        while end < len(text) and _FORBIDDEN.match(text[end]):
            end += 1
        return _not_text(text, at, end)
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    said, span = f"`{shown}` has no meaning here", Span(at, _strange_end(text, at))
    return Mistake("P001", said, span, _meant(character))


def _strange_end(text: str, at: int) -> int:
    if text[at] == "'":
        closing = text.find("'", at + 1, _line_end(text, at))
        return at + 1 if closing < 0 or forbidden(text, Span(at, closing)) else closing + 1
    run = None if text[at] in _MEANT else _STRANGE.match(text, at)
    if run is None:
        return at + 1
    found = _FORBIDDEN.search(text, at, run.end())
    return found.start() if found else run.end()


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - text.endswith("\r", at, end)


def _not_text(text: str, start: int, end: int) -> Mistake:
    value = ord(text[start])
    if 0xDC80 <= value <= 0xDCFF:
        what, mend = f"byte 0x{value - 0xDC00:02X} is not UTF-8", "save the file as UTF-8"
    else:
        what, mend = f"the control character U+{value:04X} is not text", "take it out"
    return Mistake("P005", what, Span(start, end), mend)


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


def unclosed_docstring(start: int) -> Mistake:
    """For triple quotes after which there are no others."""
    span = Span(start, start + 3)
    return Mistake("P003", "this docstring is never closed", span, 'add `"""` at its end')


def number(text: str, span: Span) -> Mistake | None:
    """What is wrong with a number, the letters that run into it included."""
    digits = text[span.start : span.end]
    letters = _LETTERS.match(text, span.end)
    if letters and letters.group():
        tail = letters.group()
        said = f"`{(digits + tail)[:40]}` is not a number"
        mend = f"a product is written `{digits} * {tail}`" if len(tail) < 20 else None
        return Mistake("P004", said, Span(span.start, letters.end()), mend)
    if len(digits) > _LONGEST_NUMBER:
        return Mistake("P004", "this number is too long", span)
    if not digits.isdigit() and math.isinf(float(digits)):
        return Mistake("P004", "this number is too large", span)
    return None
