"""lark's parser, fed by hand, with what recovery from a mistake needs of it.

It keeps two stacks: of its states, and of what has been read. A *boundary* is a state between two
clauses or two items; the stacks can be cut back to the last one, as in panic-mode recovery.
"""

from copy import copy
from functools import cache

from lark import Token, UnexpectedToken
from lark.parsers.lalr_analysis import Shift

from peftlang.syntax import nodes as n
from peftlang.syntax.grammar import interactive

# A boundary is a state that shifts one of these tokens, which tells what it is in.
_SHIFTED = {
    Token("DOCSTRING", '""""""', 0, end_pos=6): "file",
    Token("PARAM", "param"): "method",
    Token("TRAIN", "train"): "adapter",
}
_CLOSING = {"RPAR": "LPAR", "RSQB": "LSQB"}


class Parser:
    """A parser of one text; the `file` is there when it has taken the end of the text."""

    def __init__(self) -> None:
        self.file: n.File | None = None
        self._lark = interactive()
        self._state = self._lark.parser_state
        self._without_actions = copy(self._state.parse_conf)
        self._without_actions.callbacks = {}

    def feed(self, token: Token) -> bool:
        """Take a token; False where it cannot stand.

        Raises Mistake where it ends something of which no node can be made.
        """
        try:
            result = self._lark.feed_token(token)
        except UnexpectedToken:
            return False
        if token.type == "$END":
            self.file = result
        elif token.type == "RBRACE":
            self.finish()
        return True

    def takes(self, kind: str) -> bool:
        """Whether a token of this type can stand next."""
        if kind not in self._lark.choices():
            return False
        # LALR merges states, so some choices belong to other places that share this state.
        trial = self._state.copy(deepcopy_values=False)
        trial.parse_conf = self._without_actions
        try:
            trial.feed_token(Token(kind, ""), kind == "$END")
        except UnexpectedToken:
            return False
        return True

    def accepts(self) -> frozenset[str]:
        """The types of all tokens that can stand next."""
        return frozenset(self._lark.accepts())

    # --- what has been read since the last boundary ---

    @property
    def unfinished(self) -> list[object]:
        """Tokens, and the nodes that were made of tokens."""
        return self._state.value_stack[self._boundary :]

    @property
    def began(self) -> bool:
        """Whether the last token was the first of them."""
        states = self._state.state_stack
        return len(states) > 1 and states[-2] in _boundaries()

    @property
    def bracket(self) -> Token | None:
        """The innermost bracket that is open in them."""
        opened: list[Token] = []
        for value in self.unfinished:
            if isinstance(value, Token) and value.type in _CLOSING.values():
                opened.append(value)
            elif isinstance(value, Token) and value.type in _CLOSING:
                opened.pop()
        return opened[-1] if opened else None

    @property
    def body(self) -> str:
        """What they are in: a `file`, a `method` or an `adapter`."""
        return _boundaries()[self._state.state_stack[self._boundary]]

    @property
    def brace(self) -> Token | None:
        """The brace with which that body began."""
        before = reversed(self._state.value_stack[: self._boundary])
        return next((v for v in before if isinstance(v, Token) and v.type == "LBRACE"), None)

    def discard(self) -> None:
        """Take them off the stacks."""
        boundary = self._boundary
        del self._state.state_stack[boundary + 1 :]
        del self._state.value_stack[boundary:]

    def finish(self) -> bool:
        """Make a clause or an item of them; False where something is missing.

        Raises Mistake as `feed` does.
        """
        if self._state.position in _boundaries():
            return True
        # What is read is finished by a token that can only stand after it, which goes again.
        token = next((token for token in _SHIFTED if self.takes(token.type)), None)
        if token is not None:
            self.feed(token)
            self.discard()
        return token is not None

    @property
    def _boundary(self) -> int:
        """How deep in the stacks the last boundary is."""
        states, boundaries = self._state.state_stack, _boundaries()
        return next(i for i in range(len(states) - 1, -1, -1) if states[i] in boundaries)


@cache
def _boundaries() -> dict[object, str]:
    """Each boundary, and what it is in."""
    found: dict[object, str] = {}
    for state, steps in interactive().parser_state.parse_conf.states.items():
        for token, body in _SHIFTED.items():
            if token.type in steps and steps[token.type][0] is Shift:
                found[state] = body
    return found
