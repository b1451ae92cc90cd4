"""Where in a row of tokens a clause or an item can only begin, whatever was open before."""

from collections.abc import Sequence

from lark import Token

from peftlang.syntax.words import CLAUSE_TYPES, CONNECTOR_TYPES, ITEM_TYPES, RESERVED

# Between two names, these make one expression or selector of them.
_JOINING = frozenset({"AND", "OR", "IN", "WHERE", "EXCEPT"})
_TEXTS = frozenset({"STRING", "DOCSTRING", "ERROR"})


def is_word(token: Token) -> bool:
    """Whether a token is a name or a word of the language."""
    return token.type not in _TEXTS and token.isidentifier()


class Lookahead:
    """Questions about the tokens of a text; each token is given by its number."""

    def __init__(self, text: str, tokens: Sequence[Token]) -> None:
        self._text, self._tokens = text, tokens

    def first(self, number: int) -> bool:
        """Whether a token is the first of its line, or of its body."""
        if number == 0:
            return True
        before, token = self._tokens[number - 1], self._tokens[number]
        return before.type == "LBRACE" or "\n" in self._text[before.end_pos : token.start_pos]

    def beside(self, number: int) -> Token | None:
        """The next token, if it is on the same line."""
        last = number + 1 == len(self._tokens)
        return None if last or self.first(number + 1) else self._tokens[number + 1]

    def called(self, number: int) -> bool:
        """Whether an opening bracket follows with nothing between."""
        end = self._tokens[number].end_pos
        return end is not None and self._text.startswith("(", end)

    def juxtaposed(self, number: int) -> bool:
        """Whether a word is followed on its line by an operand.

        No operand can follow another, so the word is a keyword or a mistake.
        """
        after = self.beside(number)
        if after is None or after.type in CONNECTOR_TYPES:
            return False
        return is_word(after) or after.type in _TEXTS

    def begins_clause(self, number: int) -> bool:
        """Whether a clause can only begin here."""
        token = self._tokens[number]
        known = token.type in CLAUSE_TYPES or token in RESERVED
        return known and self.first(number) and self.juxtaposed(number)

    def begins_item(self, number: int) -> bool:
        """Whether an import, a method or an adapter can only begin here."""
        kind, name = self._tokens[number].type, self.beside(number)
        if kind not in ITEM_TYPES or name is None or not self.first(number):
            return False
        after = self.beside(number + 1)
        if kind != "FROM":
            return is_word(name) and (after is None or after.type in ("LPAR", "LBRACE"))
        library = is_word(name) and name.type not in _JOINING
        return name.type == "STRING" or (library and after is not None and is_word(after))
