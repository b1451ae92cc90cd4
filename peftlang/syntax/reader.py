"""Feeds a text's tokens to the parser; a mistake costs the clause that it is in, and no other.

This is panic-mode recovery: after a mistake the unfinished clause is discarded, and tokens are
skipped up to one with which a clause or an item begins.
"""

from lark import Token

from peftlang.syntax import nodes as n
from peftlang.syntax.build import MAX_NESTING, place, too_deep
from peftlang.syntax.lookahead import Lookahead, is_word
from peftlang.syntax.messages import Refused, missing_brace, unexpected
from peftlang.syntax.mistake import Mistake
from peftlang.syntax.parser import Parser
from peftlang.syntax.tokens import MAX_ERRORS, Tokens
from peftlang.syntax.words import CLAUSE_TYPES, CONNECTOR_TYPES, ITEM_TYPES

_BRACKETS = {"LPAR": 1, "LSQB": 1, "RPAR": -1, "RSQB": -1}
_BRACES = {"LBRACE": 1, "RBRACE": -1}
_DECLARING = frozenset(
    {"PARAM", "BUFFER", "INPUT", "CARRY", "TAP", "LET", "FUNCTION", "METHOD", "ADAPTER", "NAME"}
)


class Reader:
    """Reads a text at once. Its tokens are known by their numbers.

    Attributes:
        file: What the text holds, without what is beside the tree.
        comments: Its comments.
        mistakes: What is wrong with it, in no order.
        lost: What could not be read.
    """

    def __init__(self, text: str) -> None:
        tokens = Tokens(text)
        self.comments = tokens.comments
        self.mistakes = tokens.mistakes
        self.lost: list[n.Lost] = []
        self._tokens = tokens.tokens
        self._ahead = Lookahead(text, self._tokens)
        self._parser = Parser()
        self._next = 0  # the token that is read next
        self._start = 0  # the token with which the clause or item being read began
        self._open = 0  # how many brackets are open in it
        while self._next < len(self._tokens) and len(self.mistakes) < MAX_ERRORS:
            self._step()
        if self._next < len(self._tokens):
            self._stop()
        assert self._parser.file is not None
        self.file = self._parser.file

    def _step(self) -> None:
        token = self._typed(self._next)
        try:
            if token.type == "ERROR":
                self._recover()
            elif self._parser.feed(token):
                self._advance(token)
            elif not self._report():
                self._recover()
        except Mistake as mistake:
            self.mistakes.append(mistake)
            self._recover(whole=False)

    def _advance(self, token: Token) -> None:
        if self._parser.began or token.type in ("METHOD", "ADAPTER"):  # a docstring may be before
            self._start = self._next
        self._open += _BRACKETS.get(token.type, 0)
        if self._open > MAX_NESTING:
            raise too_deep(place(token))
        self._next += 1

    # --- keywords ---

    def _typed(self, number: int) -> Token:
        """A token as what it is here: a word is a keyword only where the grammar takes one."""
        token = self._tokens[number]
        if not is_word(token) or token.type in ("TRUE", "FALSE") or self._is_keyword(number):
            return token
        use = self._ahead.first(number) and self._parser.takes("USE")
        return Token.new_borrow_pos("USE" if use else "NAME", token, token)

    def _is_keyword(self, number: int) -> bool:
        token, ahead = self._tokens[number], self._ahead
        if token.type == "OVER":
            after = self._tokens[number + 1]
            return (is_word(after) or after.type == "NUMBER") and self._parser.takes("OVER")
        if token.type == "IMPORT" and self._tokens[number - 1].type == "FROM":
            return True  # rather a name is missing than that a spec is called `import`
        if token.type != "NAME" and self._parser.takes(token.type):
            return True
        clause = ahead.begins_clause(number) and self._parser.body != "file"
        return clause or ahead.begins_item(number)

    # --- mistakes ---

    def _report(self) -> bool:
        """Say that the next token cannot stand here; whether a brace before it mends that."""
        number, parser, ahead = self._next, self._parser, self._ahead
        refused = Refused(
            token=self._tokens[number],
            head=self._tokens[self._start] if parser.unfinished else None,
            previous=self._tokens[number - 1] if number else None,
            first=ahead.first(number),
            begins=ahead.begins_item(number) or ahead.begins_clause(number),
            called=ahead.called(number),
            body=parser.body,
            bracket=parser.bracket,
            brace=parser.brace,
            accepts=parser.accepts(),
        )
        mistake, brace = unexpected(refused), missing_brace(refused)
        if not (brace and refused.previous == '"""'):  # an unclosed docstring hides the brace
            self.mistakes.append(mistake)
        if mistake.code == "P008":
            self._open = 0
        return brace is not None and parser.feed(Token(brace, ""))

    def _recover(self, *, whole: bool = True) -> None:
        """Discard what the mistake at the next token has spoilt, and find where to go on.

        Args:
            whole: whether what stands before the token may be all right.
        """
        at, brackets = self._next, self._open
        if self._in_head():
            self._recover_head()
            return
        starts = self._starts(at, brackets)
        if whole and (starts or self._parser.body == "file") and self._finish():
            self._lose(at, self._next_start(at, 0))  # the token itself is the mistake
        else:
            start = at if self._tokens[self._start].type == "DOCSTRING" else self._start
            self._discard()
            self._lose(start, at if starts else self._next_start(at, brackets))

    def _finish(self) -> bool:
        try:
            return self._parser.finish()
        except Mistake as mistake:
            self.mistakes.append(mistake)
            return False

    def _discard(self) -> None:
        self._parser.discard()
        self._open = 0

    def _next_start(self, number: int, brackets: int) -> int:
        """The first token after one with which reading can go on."""
        braces = 0
        while True:
            kind = self._tokens[number].type
            brackets = max(0, brackets + _BRACKETS.get(kind, 0))
            braces = max(0, braces + _BRACES.get(kind, 0))
            number += 1
            # A brace inside of a line closes one of that line, as the last of `r in {4, 8}`.
            closes = self._tokens[number].type == "RBRACE" and not self._ahead.first(number)
            if self._starts(number, brackets) and not (braces and closes):
                return number

    def _starts(self, number: int, brackets: int) -> bool:
        """Whether a clause or an item starts with a token, or a body ends with it.

        Args:
            number: which token.
            brackets: how many brackets are open before it. A clause that can only begin here
                does so all the same.
        """
        kind, ahead, body = self._tokens[number].type, self._ahead, self._parser.body
        if kind == "$END" or ahead.begins_item(number):
            return True
        if body != "file" and (kind == "RBRACE" or ahead.begins_clause(number)):
            return True
        if brackets or kind == "DOCSTRING":
            return not brackets
        if body == "file":
            return kind in ITEM_TYPES and (ahead.first(number) or ahead.juxtaposed(number))
        if ahead.first(number):
            word = is_word(self._tokens[number]) and kind not in CONNECTOR_TYPES
            return word or kind == "ERROR"
        clause = kind in CLAUSE_TYPES and kind != "TRAIN"
        return body == "method" and clause and ahead.juxtaposed(number)

    def _lose(self, start: int, following: int) -> None:
        """Note that the tokens from one to before another are lost; go on with the latter."""
        token, *after = self._tokens[start : max(start + 1, following)]
        declares = token.type in _DECLARING and self._parser.body != "adapter"
        # In `let = a + 1` too it is `a` that will be missing elsewhere.
        name = next((one for one in after[:2] if declares and is_word(one)), None)
        ident = n.Ident(place(name), str(name)) if name else None
        span = place(token).to(place(after[-1] if after else token))
        self.lost.append(n.Lost(span, str(token) if is_word(token) else "", ident))
        self._next = following

    # --- heads ---

    def _in_head(self) -> bool:
        """Whether a method or an adapter has begun and its brace has not come yet."""
        head = self._tokens[self._start].type in ("METHOD", "ADAPTER")
        return head and bool(self._parser.unfinished)

    def _recover_head(self) -> None:
        """After a mistake in a head its clauses are read all the same, with no parameters."""
        start, following = self._start, self._end_of_head(self._next)
        head, name = self._tokens[start], self._tokens[start + 1]
        self._discard()
        self._lose(start, following)
        for number in range(start + 2, following):
            parameter = self._tokens[number]
            if self._tokens[number - 1].type in ("LPAR", "COMMA") and is_word(parameter):
                span = place(parameter)
                self.lost.append(n.Lost(span, "", n.Ident(span, str(parameter))))
        kind = self._tokens[following].type
        if kind == "$END" or self._ahead.begins_item(following):
            return
        unnamed = Token("NAME", "_", head.end_pos, end_pos=head.end_pos)
        if start and self._tokens[start - 1].type == "DOCSTRING":
            self._parser.feed(self._tokens[start - 1])
        self._parser.feed(head)
        self._parser.feed(Token.new_borrow_pos("NAME", name, name) if is_word(name) else unnamed)
        if kind != "LBRACE":
            self._parser.feed(Token("LBRACE", ""))

    def _end_of_head(self, number: int) -> int:
        """The next token that opens a body, or that can only stand after the head."""
        ahead = self._ahead
        while True:
            kind, before = self._tokens[number].type, self._tokens[number - 1].type
            opens = kind == "LBRACE" and before != "IN"  # the brace of `r in {4, 8}`
            ends = kind == "$END" or ahead.begins_item(number) or ahead.begins_clause(number)
            if opens or ends:
                return number
            number += 1

    def _stop(self) -> None:
        """Close what is open where reading stops before the end of the text."""
        if self._in_head() or not self._finish():
            self._discard()
        if self._parser.body != "file":
            self._parser.feed(Token("RBRACE", ""))
        self._parser.feed(self._tokens[-1])
