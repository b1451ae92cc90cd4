"""Text to tokens: which letters are a keyword, and where brackets and quotes do not close.

The patterns are those of the grammar. What is decided here is what a context-free grammar
cannot say: a word is a clause's keyword only where a clause can begin. No operand can follow
another without an operator between, so a word that comes after the end of an operand, outside
all brackets, is a keyword or a mistake; anywhere else it is a name. So `input`, `position` and
`in` remain names for a person to use.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from peftlang.diagnostics import Diagnostic, Label, Source, Span
from peftlang.syntax import characters

MAX_NESTING = 100

CLAUSES = {
    word: word.upper()
    for word in (
        "param",
        "buffer",
        "input",
        "carry",
        "tap",
        "let",
        "position",
        "function",
        "insertion",
        "composition",
        "sharing",
        "penalty",
        "rate",
        "ensure",
    )
}
RESERVED = frozenset({"allocate", "select"})
ITEMS = {"from": "FROM", "method": "METHOD", "adapter": "ADAPTER"}
CONNECTORS = {
    word: word.upper()
    for word in ("import", "as", "shared", "across", "at", "with", "in", "except", "where")
} | {"and": "AND", "or": "OR"}
LITERALS = {"true": "TRUE", "false": "FALSE"}

PUNCTUATION = {
    "..": "DOTDOT",
    "**": "POWER",
    "==": "EQUALS",
    "!=": "DIFFERS",
    "<=": "AT_MOST",
    ">=": "AT_LEAST",
    ",": "COMMA",
    "{": "LBRACE",
    "}": "RBRACE",
    "(": "LPAR",
    ")": "RPAR",
    ":": "COLON",
    "=": "EQUAL",
    "~": "TILDE",
    "[": "LSQB",
    "]": "RSQB",
    ".": "DOT",
    "<": "LESSTHAN",
    ">": "MORETHAN",
    "+": "PLUS",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "@": "MATMUL",
}

_SCAN = re.compile(
    r'(?P<BLANK>[ \t\r\n]+)|(?P<COMMENT>\#[^\n]*)|(?P<DOCSTRING>"""[\s\S]*?""")'
    r'|(?P<STRING>"[^"\n]*")|(?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)'
    r"|(?P<NAME>[A-Za-z_][A-Za-z_0-9]*)|(?P<SIGN>"
    + "|".join(re.escape(sign) for sign in PUNCTUATION)
    + r")"
)
# What can only be the head of a new item or clause, even where a bracket is still open:
# a word and, on the same line, another with no operator between.
_NEW_ITEM = re.compile(
    r"(?:method|adapter)[ \t]+[A-Za-z_]\w*[ \t]*[({\n\r]"
    r'|from[ \t]+(?:"|(?!(?:and|or|in|where|except)\b)[A-Za-z_]\w*[ \t]+[A-Za-z_])',
    re.ASCII,
)
_NEW_CLAUSE = re.compile(
    rf"(?:{'|'.join(CLAUSES)}|train)[ \t]+(?!(?:and|or|in|where|except|over)\b)[A-Za-z_\"]",
    re.ASCII,
)
_GAP = r"(?:[ \t\r\n]|#[^\n]*\n)"
_OVER_WHAT = re.compile(_GAP + "+[A-Za-z_0-9]")
# In `with sharing A, input across model` the second word is a name; in
# `with sharing A across model, function f = x` it is a keyword.
_SAYS_SOMETHING = re.compile(_GAP + r"*(?!across\b)[A-Za-z_\"(0-9-]")
_JUXTAPOSED = re.compile(r'[ \t]+[A-Za-z_"]')
_STUCK = re.compile(r"[A-Za-z_0-9]+")
_NEXT_ITEM = re.compile(r"^(?:method|adapter|from)\b", re.MULTILINE)

_ENDS = frozenset(["NAME", "USE", "NUMBER", "STRING", "RPAR", "RSQB", "TRUE", "FALSE", "NONE"])
_OPENS_CLAUSE = _ENDS | {"LBRACE", "RBRACE", "DOCSTRING"}
_OUTSIDE = frozenset({"at", "with", "shared", "across"})
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """A terminal of the grammar and where it stands.

    `starts` marks the tokens at which reading can resume after an error, `first` those that
    are the first of their line. A token of type ERROR has a diagnostic in place of a meaning.
    """

    type: str
    text: str
    span: Span
    first: bool = False
    starts: bool = False
    error: Diagnostic | None = None


class Lexer:
    """One run over one text. Afterwards `comments` and `repairs` are complete.

    `repairs` are diagnostics for which a token was invented, so that reading goes on as if
    the text had been right.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.comments: list[Span] = []
        self.repairs: list[Diagnostic] = []
        self._text = source.text
        self._body: Literal["method", "adapter"] | None = None
        self._header: Token | None = None
        self._brace: Token | None = None
        self._open: list[Token] = []
        self._previous: Token | None = None
        self._first = True
        self._overrides = False

    def tokens(self) -> Iterator[Token]:
        """The tokens in order, the last one of type `$END`. Linear in the text's length."""
        text, end = self._text, len(self._text)
        at = 1 if text.startswith("\ufeff") else 0
        while at < end:
            match = _SCAN.match(text, at)
            if match is None:
                token, at = characters.unreadable(self.source, at)
                yield self._error(token)
                continue
            kind = match.lastgroup
            start, at = match.span()
            if kind == "BLANK":
                self._first = self._first or "\n" in match.group()
                continue
            bad = None
            if kind in ("COMMENT", "STRING", "DOCSTRING"):
                bad = characters.forbidden(self.source, start, at)
            if bad is not None:
                yield self._error(bad)
            elif kind == "COMMENT":
                self.comments.append(Span(start, at))
            elif kind == "NAME":
                yield from self._word(match.group(), start, at)
            elif kind == "SIGN":
                yield from self._sign(match.group(), start, at)
            elif kind == "NUMBER":
                stuck = _STUCK.match(text, at)
                at = stuck.end() if stuck else at
                wrong = characters.number(self.source, start, match.end(), at)
                yield self._error(wrong) if wrong else self._made("NUMBER", start, at)
            elif text.startswith('"""', start) and kind == "STRING":
                # The pattern for docstrings did not match, so nothing after this closes it.
                yield self._error(characters.unclosed_docstring(self.source, start))
                item = _NEXT_ITEM.search(text, at)
                at = item.start() if item else end
                self._first = True
            elif kind is not None:
                yield self._made(kind, start, at, starts=kind == "DOCSTRING" and not self._open)
        yield from self._finish(end)

    # --- making tokens ---

    def _made(self, kind: str, start: int, end: int, *, starts: bool = False) -> Token:
        token = Token(kind, self._text[start:end], Span(start, end), self._first, starts)
        self._first = False
        self._previous = token
        return token

    def _error(self, diagnostic: Diagnostic) -> Token:
        self._first = False
        self._previous = None
        span = diagnostic.span or Span(0, 0)
        return Token("ERROR", self.source.slice(span), span, error=diagnostic)

    def _after(self, kinds: frozenset[str]) -> bool:
        return self._previous is None or self._previous.type in kinds

    def _was(self, *kinds: str) -> bool:
        return self._previous is not None and self._previous.type in kinds

    # --- words ---

    def _word(self, word: str, start: int, end: int) -> Iterator[Token]:
        first = self._first
        if first:
            yield from self._close_at_new_item(start)
        if self._begins_clause(start):
            if self._open:
                yield self._unclosed()
            self._first = first
            self._previous = None
        elif self._open and word in _OUTSIDE and self._after(_ENDS):
            yield self._unclosed()
        if self._header and first and not self._open:
            yield from self._missing_brace(word, start)
        kind, starts = self._kind(word, end, first)
        if kind in ("METHOD", "ADAPTER"):
            self._header = self._made(kind, start, end, starts=starts)
            yield self._header
            return
        if starts:
            self._overrides = False
        elif kind == "WITH":
            self._overrides = True
        yield self._made(kind, start, end, starts=starts)

    def _begins_clause(self, start: int) -> bool:
        if not (self._first and self._body) or (self._overrides and self._was("WITH", "COMMA")):
            return False
        return _NEW_CLAUSE.match(self._text, start) is not None

    def _kind(  # noqa: PLR0911 -- one for each context
        self, word: str, end: int, first: bool
    ) -> tuple[str, bool]:
        """The terminal that a word is, here, and whether a clause or item begins with it."""
        if word in LITERALS:
            return LITERALS[word], False
        if self._open:
            return self._kind_in_brackets(word, end), False
        if self._overrides and word in CLAUSES and self._was("WITH", "COMMA"):
            keyword = self._was("WITH") or _SAYS_SOMETHING.match(self._text, end)
            return (CLAUSES[word] if keyword else "NAME"), False
        if word == "none" and self._was("SHARING"):
            return "NONE", False
        if word == "across" and self._was("SHARED"):
            return "ACROSS", False
        if word == "import" and self._was("FROM"):
            return "IMPORT", False
        if not self._after(_OPENS_CLAUSE):
            return "NAME", False
        if self._previous is not None and word in CONNECTORS and self._after(_ENDS):
            return CONNECTORS[word], False
        if self._body is None:
            if word in ITEMS and not self._header:
                return ITEMS[word], True
            return "NAME", not self._header
        return self._kind_in_body(word, end, first or self._was("LBRACE"))

    def _kind_in_brackets(self, word: str, end: int) -> str:
        if self._after(_ENDS) and word in CONNECTORS:
            return CONNECTORS[word]
        if word == "over" and self._was("LPAR", "COMMA") and _OVER_WHAT.match(self._text, end):
            return "OVER"
        return "NAME"

    def _kind_in_body(  # noqa: PLR0911 -- one for each context
        self, word: str, end: int, first: bool
    ) -> tuple[str, bool]:
        juxtaposed = _JUXTAPOSED.match(self._text, end) is not None
        called = self._text[end : end + 1] == "("
        if word in RESERVED and juxtaposed and first:
            return "RESERVED", True
        if self._body == "method":
            if word in CLAUSES:
                return CLAUSES[word], True
            if word == "train" and juxtaposed and first:
                return "TRAIN", True
            return "NAME", first
        if word == "train" and not called:
            return "TRAIN", True
        if word in CLAUSES and first and juxtaposed:
            return CLAUSES[word], True
        return ("USE", True) if first else ("NAME", False)

    # --- brackets, braces and other signs ---

    def _sign(self, sign: str, start: int, end: int) -> Iterator[Token]:
        if self._in_set(sign):
            token = self._made("SET", start, end)
            if sign == "{":
                self._open.append(token)
            else:
                self._open.pop()
            yield token
            return
        if sign in ("{", "}", "~") and self._open:
            yield self._unclosed()
        if sign in (")", "]"):
            wrong = self._closing(sign, start)
            if wrong is not None:
                yield self._error(wrong)
                return
        starts = False
        if sign == "{" and self._header:
            self._body = "method" if self._header.type == "METHOD" else "adapter"
            self._header = None
        elif sign == "}":
            starts = True
            self._body = None
            self._header = None
            self._overrides = False
        token = self._made(PUNCTUATION[sign], start, end, starts=starts)
        if sign == "{":
            self._brace = token
        elif sign in ("(", "["):
            self._open.append(token)
            if len(self._open) == MAX_NESTING + 1:
                yield self._error(too_deep(self.source, token.span))
                return
        yield token

    def _in_set(self, sign: str) -> bool:
        """Whether a brace is one of `r in {4, 8}`, which the parser has a word about."""
        if sign == "{":
            return bool(self._open) and self._was("IN")
        return sign == "}" and bool(self._open) and self._open[-1].text == "{"

    def _closing(self, sign: str, start: int) -> Diagnostic | None:
        if not self._open:
            return Diagnostic(
                "P009",
                f"`{sign}` closes nothing",
                self.source,
                Span(start, start + 1),
                help="take it out, or open it before",
            )
        opened = self._open.pop()
        if _PAIRS[opened.text] == sign:
            return None
        return Diagnostic(
            "P009",
            f"`{opened.text}` is closed by `{sign}`",
            self.source,
            Span(start, start + 1),
            labels=(Label(opened.span, "opened here"),),
            help=f"write `{_PAIRS[opened.text]}`",
        )

    def _unclosed(self) -> Token:
        opened = self._open[min(len(self._open) - 1, MAX_NESTING)]
        self._open.clear()
        return self._error(
            Diagnostic(
                "P008",
                f"`{opened.text}` is never closed",
                self.source,
                opened.span,
                help=f"add the missing `{_PAIRS[opened.text]}`",
            )
        )

    def _close_at_new_item(self, start: int) -> Iterator[Token]:
        if not _NEW_ITEM.match(self._text, start):
            return
        if self._open:
            yield self._unclosed()
        if self._body:
            yield self._missing_end(start)
        self._header = None
        self._first = True
        self._previous = None

    def _missing_end(self, at: int) -> Token:
        labels = (Label(self._brace.span, "opened here"),) if self._brace else ()
        span = Span(at, at)
        if self._previous is not None:
            span = Span(self._previous.span.end, self._previous.span.end)
        self.repairs.append(
            Diagnostic(
                "P010",
                f"this {self._body} has no `}}`",
                self.source,
                span,
                labels=labels,
                help="close it with `}` on a line of its own",
            )
        )
        self._body = None
        self._overrides = False
        return Token("RBRACE", "}", span, first=True, starts=True)

    def _missing_brace(self, word: str, start: int) -> Iterator[Token]:
        header, previous = self._header, self._previous
        if header is None or previous is None or previous.type not in _ENDS:
            return
        if word not in CLAUSES and word != "train" and header.type == "METHOD":
            return
        span = Span(previous.span.end, previous.span.end)
        self.repairs.append(
            Diagnostic(
                "P010",
                f"this {header.text} has no `{{`",
                self.source,
                span,
                help="open its body with `{` at the end of this line",
            )
        )
        self._body = "method" if header.type == "METHOD" else "adapter"
        self._header = None
        brace = Token("LBRACE", "{", span)
        self._brace = None
        self._previous = brace
        self._first = True
        yield brace

    # --- quotes and the end ---

    def _finish(self, end: int) -> Iterator[Token]:
        if self._open:
            yield self._unclosed()
        if self._body:
            yield self._missing_end(end)
        yield Token("$END", "", Span(end, end), first=True, starts=True)


def too_deep(source: Source, span: Span) -> Diagnostic:
    """The diagnostic for nesting past `MAX_NESTING`."""
    return Diagnostic(
        "P007",
        f"this is nested more than {MAX_NESTING} levels deep",
        source,
        span,
        help="give the inner part a name with `let`",
    )
