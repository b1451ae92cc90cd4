"""lark's parser, fed by hand, with the ways back that reading on after a mistake needs.

It keeps two stacks: of its states, and of what has been read. A *seam* is a state between two
clauses or two items, and to cut is to take off both stacks what lies above the last seam.
"""

from copy import copy
from functools import cache

from lark import Token, UnexpectedToken
from lark.parsers.lalr_analysis import Shift

from peftlang.syntax import nodes as n
from peftlang.syntax.grammar import interactive

# A seam is a state that takes one of these words next.
_AT_SEAM = {"METHOD": "file", "PARAM": "method", "TRAIN": "adapter"}
_CLOSING = {"RPAR": "LPAR", "RSQB": "LSQB"}


class Parser:
    """A parser of one text. Its `items` are what the text holds, once it has taken the end."""

    def __init__(self) -> None:
        self.items: list[n.Node] = []
        self._lark = interactive()
        self._state = self._lark.parser_state
        self._silent = copy(self._state.parse_conf)
        self._silent.callbacks = {}

    def feed(self, token: Token) -> bool:
        """Whether a token is taken. Raises Mistake where no node can be made of what it ends."""
        try:
            result = self._lark.feed_token(token)
        except UnexpectedToken:
            return False
        if token.type == "$END":
            self.items = result
        elif token.type in ("RBRACE", "DOCSTRING"):
            self.settle()
        return True

    def takes(self, kind: str) -> bool:
        """Whether a token of this type would be taken."""
        if kind not in self._lark.choices():
            return False
        # The choices are those of every place that looks alike; this one may have fewer.
        trial = self._state.copy(deepcopy_values=False)
        trial.parse_conf = self._silent
        try:
            trial.feed_token(Token(kind, ""), kind == "$END")
        except UnexpectedToken:
            return False
        return True

    def accepts(self) -> frozenset[str]:
        """The types of all tokens that would be taken."""
        return frozenset(self._lark.accepts())

    # --- seams ---

    @property
    def _seam(self) -> int:
        """How many states lie below the last seam."""
        states, seams = self._state.state_stack, _seams()
        return next(i for i in range(len(states) - 1, -1, -1) if states[i] in seams)

    @property
    def body(self) -> str:
        """What the last seam is in: a `file`, a `method` or an `adapter`."""
        return _seams()[self._state.state_stack[self._seam]]

    @property
    def unfinished(self) -> list[object]:
        """What has been read since the last seam: tokens, and nodes that are finished."""
        return self._state.value_stack[self._seam :]

    @property
    def begins(self) -> bool:
        """Whether the token that was taken last is the first after a seam."""
        states = self._state.state_stack
        return len(states) > 1 and states[-2] in _seams()

    @property
    def brace(self) -> Token | None:
        """The brace that opened the method or adapter of the last seam."""
        below = reversed(self._state.value_stack[: self._seam])
        return next((v for v in below if isinstance(v, Token) and v.type == "LBRACE"), None)

    @property
    def bracket(self) -> Token | None:
        """The innermost bracket that is open since the last seam."""
        opened: list[Token] = []
        for value in self.unfinished:
            if isinstance(value, Token) and value.type in _CLOSING.values():
                opened.append(value)
            elif isinstance(value, Token) and value.type in _CLOSING:
                opened.pop()
        return opened[-1] if opened else None

    def cut(self) -> None:
        """Give up what has been read since the last seam."""
        seam = self._seam
        del self._state.state_stack[seam + 1 :]
        del self._state.value_stack[seam:]

    def settle(self) -> bool:
        """Finish what has been read since the last seam; False where something is missing.

        Raises Mistake as `feed` does.
        """
        if self._state.position in _seams():
            return True
        # A word that can only stand after a seam finishes what is before it, and goes again.
        word = next((word for word in _AT_SEAM if self.takes(word)), None)
        if word is not None:
            self.feed(Token(word, ""))
            self.cut()
        return word is not None


@cache
def _seams() -> dict[object, str]:
    """Each state that is a seam, and what it is in."""
    found: dict[object, str] = {}
    for state, steps in interactive().parser_state.parse_conf.states.items():
        for word, body in _AT_SEAM.items():
            if word in steps and steps[word][0] is Shift:
                found[state] = body
    return found
