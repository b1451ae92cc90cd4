"""Text to tokens: lark reads them; what it cannot read becomes a token of type ERROR."""

import re

from lark import Token, UnexpectedCharacters

from peftlang.diagnostics import Span
from peftlang.syntax import characters
from peftlang.syntax.build import place
from peftlang.syntax.grammar import interactive
from peftlang.syntax.mistake import Mistake

MAX_ERRORS = 50

_CHECKED = frozenset({"NUMBER", "STRING", "DOCSTRING", "COMMENT"})
_NEXT_ITEM = re.compile(r"^(?:method|adapter|from)\b", re.MULTILINE)


class Tokens:
    """The tokens of a text, as far as its first `MAX_ERRORS` mistakes.

    Attributes:
        tokens: All but the comments; the last is of type `$END`.
        comments: The comments.
        mistakes: What could not be read.
    """

    def __init__(self, text: str) -> None:
        self.tokens: list[Token] = []
        self.comments: list[Token] = []
        self.mistakes: list[Mistake] = []
        self._text = text
        self._parser = interactive(text)
        lexer = self._parser.lexer_thread.state
        assert lexer is not None
        self._reached = lexer.line_ctr
        self._go_to(text.startswith("\ufeff"))
        while self._read() and len(self.mistakes) < MAX_ERRORS:
            pass
        self.tokens.append(Token("$END", "", len(text), end_pos=len(text)))

    def _read(self) -> bool:
        """Take tokens up to one that cannot be read; whether there was one."""
        try:
            for token in self._parser.lexer_thread.lex(self._parser.parser_state):
                if token.type in _CHECKED:
                    self._check(token, place(token))
                else:
                    self.tokens.append(token)
        except UnexpectedCharacters:
            wrong = characters.unreadable(self._text, self._reached.char_pos)
            self._error(wrong, wrong.span.end)
            return True
        return False

    def _check(self, token: Token, span: Span) -> None:
        end = span.end
        if token.type == "NUMBER":
            wrong = characters.number(self._text, span)
            end = wrong.span.end if wrong else end
        else:
            wrong = characters.forbidden(self._text, span)
            if not wrong and len(token) == 2 and self._text.startswith('"', end):
                # The pattern for docstrings did not match, so nothing after this closes it.
                wrong = characters.unclosed_docstring(span.start)
                following = _NEXT_ITEM.search(self._text, end)
                end = following.start() if following else len(self._text)
        if token.type == "COMMENT":
            self.comments.append(token)
            self.mistakes += [wrong] if wrong else []
        elif wrong:
            self._error(wrong, end)
        else:
            self.tokens.append(token)

    def _error(self, wrong: Mistake, end: int) -> None:
        """Note what is wrong, put a token in its place, and go on at the offset `end`."""
        text = self._text[wrong.span.start : wrong.span.end]
        self.mistakes.append(wrong)
        self.tokens.append(Token("ERROR", text, wrong.span.start, end_pos=wrong.span.end))
        self._go_to(end)

    def _go_to(self, offset: int) -> None:
        self._reached.feed(self._text[self._reached.char_pos : offset])
