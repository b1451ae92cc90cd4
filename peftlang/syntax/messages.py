"""A token that cannot stand where it stands, said in the terms of the person who wrote it."""

from collections.abc import Callable
from dataclasses import dataclass

from peftlang.diagnostics import Diagnostic, Source, Span, nearest
from peftlang.syntax.lexer import CLAUSES, CONNECTORS, PUNCTUATION, RESERVED, Token

Accepts = Callable[[str], bool]

_SIGNS = {kind: sign for sign, kind in PUNCTUATION.items()}
_OPERAND = ("NAME", "NUMBER", "LPAR")
_COMPARISONS = frozenset({"EQUALS", "DIFFERS", "AT_MOST", "AT_LEAST", "LESSTHAN", "MORETHAN"})
# Worth naming as what was expected; a comma or an operator is nearly always possible.
_NAMED = ("TILDE", "EQUAL", "COLON", "LBRACE", "RPAR", "RSQB", "COMMA")
_WORDS = {
    "ACROSS": "`across`",
    "IMPORT": "`import`",
    "STRING": "a quoted text",
}
_SHAPES = {
    "PARAM": "param A[r, d_x] ~ zeros",
    "BUFFER": "buffer E[n, 2] ~ zeros",
    "INPUT": "input task : index(tasks)",
    "CARRY": "carry z[d_h] ~ zeros",
    "TAP": "tap y[d_h] = block.h in layers[layer - 1]",
    "LET": "let V = W + 1",
    "POSITION": "position attn.q, attn.v",
    "FUNCTION": "function delta = B @ (A @ x)",
    "INSERTION": "insertion parallel",
    "COMPOSITION": "composition h = h + delta",
    "SHARING": "sharing A, B across model",
    "PENALTY": "penalty beta * sum(A)",
    "RATE": "rate B = 16",
    "ENSURE": "ensure identity_at_init, mergeable",
    "TRAIN": "train norm.weight, norm.bias",
    "USE": "lora(r = 8) at attn.q with insertion parallel",
    "METHOD": "method lora(r: int = 8) {",
    "ADAPTER": "adapter mam(r: int = 8) {",
    "FROM": 'from "lora.peft" import lora',
}


@dataclass(frozen=True, slots=True)
class Place:
    """What is known where reading stopped: the token refused, and its clause so far."""

    source: Source
    token: Token
    clause: tuple[Token, ...]
    accepts: Accepts

    @property
    def previous(self) -> Token | None:
        """The token before the refused one, if both are of the same clause."""
        before = [token for token in self.clause if token is not self.token]
        return before[-1] if before else None

    @property
    def head(self) -> str:
        """The type of the token that started the clause."""
        return self.clause[0].type if self.clause else ""

    def says(
        self, code: str, message: str, mend: str | None = None, span: Span | None = None
    ) -> Diagnostic:
        """A diagnostic at the refused token unless another span is given."""
        return Diagnostic(code, message, self.source, span or self.token.span, help=mend)


def unexpected(source: Source, token: Token, clause: list[Token], accepts: Accepts) -> Diagnostic:
    """The diagnostic for a token that the grammar refuses.

    Args:
        source: the text.
        token: the refused token.
        clause: the tokens of the clause or item that was being read, possibly with `token`.
        accepts: whether a terminal could have stood there.
    """
    place = Place(source, token, tuple(clause), accepts)
    for rule in (_reserved, _misplaced, _override, _unknown, _other_sign, _missing):
        found = rule(place)
        if found is not None:
            return found
    return _expected(place)


def _reserved(place: Place) -> Diagnostic | None:
    token = place.token
    if token.type == "RESERVED":
        return place.says(
            "P013",
            f"`{token.text}` is reserved for a later version of the language",
            f"the clauses are {_listed(CLAUSES)}",
        )
    if token.type == "IN" and place.head in ("METHOD", "ADAPTER"):
        return place.says(
            "P013",
            "a search space is reserved for a later version of the language",
            "give one default, as in `r: int = 8`",
        )
    return None


def _misplaced(place: Place) -> Diagnostic | None:
    kind, text = place.token.type, place.token.text
    if kind == "DOCSTRING":
        return place.says(
            "P014",
            "a docstring cannot stand here",
            "a docstring stands before `method` or `adapter`; a remark begins with `#`",
        )
    if kind == "RBRACE" and place.accepts("METHOD"):
        return place.says("P009", "`}` closes nothing", "take it out")
    if kind in CLAUSES.values() and place.accepts("TRAIN"):
        return place.says(
            "P015",
            f"`{text}` is a clause of a method, and this is an adapter",
            "an adapter holds uses, as in `lora(r = 8) at attn.q`, `train` and `sharing`",
        )
    if kind == "TRAIN" and place.accepts("PARAM"):
        return place.says(
            "P015",
            "`train` is a clause of an adapter, and this is a method",
            "put it into an adapter that uses the method",
        )
    return None


def _override(place: Place) -> Diagnostic | None:
    """After `with`, a clause that a use cannot say otherwise."""
    kind, text, previous = place.token.type, place.token.text, place.previous
    if kind not in CLAUSES.values() or previous is None or previous.type not in ("WITH", "COMMA"):
        return None
    if kind == "POSITION":
        return place.says("P015", "a use says its position by `at`", "write `at` before `with`")
    return place.says(
        "P015",
        f"a use cannot say `{text}` otherwise",
        "after `with` stand function, insertion, composition, sharing, penalty or rate",
    )


def _unknown(place: Place) -> Diagnostic | None:
    """A word where a clause or an item should begin."""
    token = place.token
    if token.type != "NAME" or not token.starts:
        return None
    if place.accepts("PARAM"):
        rest = place.source.text[token.span.end : token.span.end + 1]
        if rest == "(":
            return place.says(
                "P015",
                f"`{token.text}` is used here as in an adapter, and this is a method",
                "put the use into an adapter: `adapter name { ... }`",
            )
        words, what = [*CLAUSES, *RESERVED], "clause"
    elif place.accepts("METHOD"):
        words, what = ["method", "adapter", "from"], "item"
    else:
        return None
    close = nearest(token.text, words)
    if close:
        mend = f"did you mean `{close[0]}`?"
    elif what == "clause":
        mend = f"the clauses are {_listed(CLAUSES)}"
    else:
        mend = "a file holds imports, methods and adapters: `from`, `method`, `adapter`"
    if what == "clause":
        return place.says("P011", f"there is no clause `{token.text}`", mend)
    return place.says("P017", f"`{token.text}` begins neither a method nor an adapter", mend)


def _other_sign(place: Place) -> Diagnostic | None:
    """One sign where another of the same look or use belongs."""
    kind, text, head = place.token.type, place.token.text, place.head
    if kind in ("EQUAL", "COLON", "EQUALS") and place.accepts("TILDE"):
        return place.says(
            "P012",
            f"expected `~` before the init, found `{text}`",
            f"write `~`, as in `{_SHAPES[head]}`" if head in _SHAPES else "write `~`",
        )
    if kind in ("TILDE", "EQUALS") and place.accepts("EQUAL"):
        return place.says("P012", f"expected `=`, found `{text}`", "write `=`")
    if kind == "EQUAL" and place.accepts("EQUALS"):
        return place.says("P012", "expected a comparison, found `=`", "equal is written `==`")
    if kind in ("EQUAL", "TILDE") and place.accepts("COLON"):
        example = "task : index(tasks)" if head == "INPUT" else "r: int = 8"
        return place.says("P012", f"expected `:` and a type, found `{text}`", f"as in `{example}`")
    if kind in _COMPARISONS and place.accepts("PLUS"):
        return place.says("P012", "comparisons do not chain", "join two of them: `a < b and b < c`")
    return None


def _missing(place: Place) -> Diagnostic | None:
    """An operand right after another: an operator, a comma or a bracket is missing."""
    token, previous = place.token, place.previous
    if previous is None:
        return None
    in_head = place.head in ("METHOD", "ADAPTER") and place.accepts("COLON")
    if in_head and token.type in ("COMMA", "RPAR"):
        return place.says(
            "P012",
            f"the hyper-parameter `{previous.text}` has no type",
            f"write `{previous.text}: int`, or another type",
        )
    if token.type in ("NAME", "NUMBER", "STRING", "LPAR", "TRUE", "FALSE") and place.accepts(
        "PLUS"
    ):
        return place.says(
            "P012",
            f"expected an operator between `{_short(previous)}` and `{_short(token)}`",
            "a product is written `*`, a matrix product `@`",
        )
    return None


def _expected(place: Place) -> Diagnostic:
    wanted = _wanted(place)
    previous = place.previous
    after = f" after `{_short(previous)}`" if previous is not None else ""
    shape = _SHAPES.get(place.head)
    mend = f"as in `{shape}`" if shape else None
    token = place.token
    if token.type == "$END" or (token.first and previous is not None):
        at = previous.span.end if previous is not None else token.span.start
        return place.says("P012", f"expected {wanted}{after}", mend, Span(at, at))
    return place.says("P012", f"expected {wanted}{after}, found `{_short(token)}`", mend)


def _wanted(place: Place) -> str:  # noqa: PLR0911 -- one for each kind
    accepts = place.accepts
    if all(accepts(kind) for kind in _OPERAND):
        return "an expression"
    if accepts("STRING") and accepts("NAME"):
        return "a position" if accepts("LPAR") else "a name or a quoted path"
    if accepts("NAME"):
        return "a name or `none`" if accepts("NONE") else "a name"
    if accepts("METHOD"):
        return "`method`, `adapter` or `from`"
    found = [f"`{_SIGNS[kind]}`" for kind in _NAMED if accepts(kind)]
    found += [text for kind, text in _WORDS.items() if accepts(kind)]
    if found:
        return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    if accepts("PARAM"):
        return "a clause"
    if accepts("USE"):
        return "the use of a method"
    words = [f"`{word}`" for word, kind in CONNECTORS.items() if accepts(kind)]
    return " or ".join(words) if words else "something else"


def _short(token: Token) -> str:
    text = " ".join(token.text.split())
    return text if len(text) <= 24 else text[:23] + "…"


def _listed(words: dict[str, str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
