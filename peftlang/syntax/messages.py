"""A token that cannot stand where it stands, said in the terms of the person who wrote it."""

from collections.abc import Iterable
from dataclasses import dataclass

from lark import Token

from peftlang.diagnostics import Label, Span, nearest
from peftlang.syntax.build import place
from peftlang.syntax.lookahead import is_word
from peftlang.syntax.mistake import Mistake
from peftlang.syntax.words import (
    CLAUSE_TYPES,
    CLAUSES,
    CONNECTORS,
    ITEM_TYPES,
    ITEMS,
    RESERVED,
    TRAIN,
    USE,
)

_OPERAND = frozenset({"NAME", "NUMBER", "LPAR"})
_COMPARISONS = frozenset({"EQUALS", "DIFFERS", "AT_MOST", "AT_LEAST", "LESSTHAN", "MORETHAN"})
_CLOSING = {"(": ")", "[": "]"}
# What no bracket can hold: it is the bracket that is wrong.
_NEVER_INSIDE = frozenset({"TILDE", "LBRACE", "RBRACE", "AT", "WITH", "SHARED", "ACROSS", "$END"})
# Worth naming as what was expected; a comma or an operator is nearly always possible.
_NAMED = {
    "TILDE": "`~`",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "LBRACE": "`{`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "COMMA": "`,`",
    "ACROSS": "`across`",
    "IMPORT": "`import`",
    "STRING": "a quoted text",
}
_SHAPES = {**CLAUSES, **ITEMS, "train": TRAIN}


@dataclass(frozen=True, slots=True)
class Refused:
    """A token that the grammar refuses, and what is known of where it stands.

    Attributes:
        token: The token.
        head: The token that began the clause or item that is being read; None between two.
        previous: The token before it.
        first: Whether it is the first of its line.
        begins: Whether a clause or an item can only begin with it.
        called: Whether an opening parenthesis follows it at once.
        body: What it is in: a `file`, a `method` or an `adapter`.
        bracket: The innermost bracket that is open in the clause.
        brace: The brace with which the body begins.
        accepts: The types of the tokens that could have stood there.
    """

    token: Token
    head: Token | None
    previous: Token | None
    first: bool
    begins: bool
    called: bool
    body: str
    bracket: Token | None
    brace: Token | None
    accepts: frozenset[str]

    @property
    def kind(self) -> str:
        return self.token.type

    @property
    def gap(self) -> Span:
        """Right behind the token before it."""
        end = place(self.previous).end if self.previous else 0
        return Span(end, end)

    @property
    def shape(self) -> str | None:
        """How a clause or item with this head looks."""
        word = self.head is not None and is_word(self.head)
        return _SHAPES.get(str(self.head).lower(), USE) if word else None

    def says(self, code: str, message: str, mend: str | None = None) -> Mistake:
        """A mistake at the token."""
        return Mistake(code, message, place(self.token), mend)


def unexpected(at: Refused) -> Mistake:
    """What to say of a token that the grammar refuses."""
    rules = (_brace, _reserved, _bracket, _misplaced, _override, _unknown, _other_sign, _missing)
    said = (rule(at) for rule in rules)
    return next((found for found in said if found is not None), None) or _expected(at)


def missing_brace(at: Refused) -> str | None:
    """The type of the brace that mends the text where it is put in before the token."""
    if at.head is not None and at.first and "LBRACE" in at.accepts:
        use = at.head.type == "ADAPTER" and is_word(at.token)
        return "LBRACE" if use or at.kind in CLAUSE_TYPES else None
    ends = at.kind == "$END" or (at.kind in ITEM_TYPES and at.begins)
    return "RBRACE" if ends and "RBRACE" in at.accepts else None


def _brace(at: Refused) -> Mistake | None:
    brace = missing_brace(at)
    if brace == "LBRACE":
        mend = "open its body with `{` at the end of this line"
        return Mistake("P010", f"this {at.head} has no `{{`", at.gap, mend)
    if brace == "RBRACE":
        # A brace that was put in has no text.
        opened = (Label(place(at.brace), "opened here"),) if at.brace else ()
        mend = "close it with `}` on a line of its own"
        return Mistake("P010", f"this {at.body} has no `}}`", at.gap, mend, opened)
    return None


def _reserved(at: Refused) -> Mistake | None:
    if at.kind == "IN" and at.head is not None and at.head.type in ("METHOD", "ADAPTER"):
        return at.says(
            "P013",
            "a search space is reserved for a later version of the language",
            "give one default, as in `r: int = 8`",
        )
    if at.token in RESERVED and at.begins and at.accepts & {"PARAM", "TRAIN"}:
        return at.says(
            "P013",
            f"`{at.token}` is reserved for a later version of the language",
            f"the clauses are {_listed(CLAUSES)}",
        )
    return None


def _bracket(at: Refused) -> Mistake | None:
    if at.bracket is None:
        closes = at.kind in ("RPAR", "RSQB")
        said = f"`{at.token}` closes nothing"
        return at.says("P009", said, "take it out, or open it before") if closes else None
    closing = _CLOSING[at.bracket]
    if at.begins or at.kind in _NEVER_INSIDE:
        said, mend = f"`{at.bracket}` is never closed", f"add the missing `{closing}`"
        return Mistake("P008", said, place(at.bracket), mend)
    if at.kind in ("RPAR", "RSQB") and at.token != closing:
        opened = Label(place(at.bracket), "opened here")
        said, mend = f"`{at.bracket}` is closed by `{at.token}`", f"write `{closing}`"
        return Mistake("P009", said, place(at.token), mend, (opened,))
    return None


def _misplaced(at: Refused) -> Mistake | None:
    if at.head is not None and at.head.type == "DOCSTRING":
        if at.kind in ("DOCSTRING", "FROM", "$END"):
            start = place(at.head).start
            return Mistake(
                "P014",
                "this docstring belongs to nothing",
                Span(start, start + 3),
                "a docstring stands before `method` or `adapter`, or before the first import",
            )
    elif at.kind == "DOCSTRING":
        return at.says(
            "P014",
            "a docstring cannot stand here",
            "a docstring stands before `method` or `adapter`; a remark begins with `#`",
        )
    if at.kind == "RBRACE" and "METHOD" in at.accepts:
        return at.says("P009", "`}` closes nothing", "take it out")
    if at.begins and at.kind == "TRAIN" and "PARAM" in at.accepts:
        return at.says(
            "P015",
            "`train` is a clause of an adapter, and this is a method",
            "put it into an adapter that uses the method",
        )
    if at.begins and at.kind in CLAUSE_TYPES and "TRAIN" in at.accepts:
        return at.says(
            "P015",
            f"`{at.token}` is a clause of a method, and this is an adapter",
            "an adapter holds uses, as in `lora(r = 8) at attn.q`, `train` and `sharing`",
        )
    return None


def _override(at: Refused) -> Mistake | None:
    """After `with`, a clause that a use cannot say otherwise."""
    follows = at.previous is not None and at.previous.type in ("WITH", "COMMA")
    if at.body != "adapter" or at.kind not in CLAUSE_TYPES or not follows:
        return None
    if at.kind == "POSITION":
        return at.says("P015", "a use says its position by `at`", "write `at` before `with`")
    return at.says(
        "P015",
        f"a use cannot say `{at.token}` otherwise",
        "after `with` stand function, insertion, composition, sharing, penalty or rate",
    )


def _unknown(at: Refused) -> Mistake | None:
    """A word where a clause or an item should begin."""
    if not is_word(at.token):
        return None
    if "METHOD" in at.accepts:
        close = nearest(at.token, ("method", "adapter", "from"))
        return at.says(
            "P017",
            f"`{at.token}` begins neither a method nor an adapter",
            f"did you mean `{close[0]}`?"
            if close
            else "a file holds imports, methods and adapters: `from`, `method`, `adapter`",
        )
    if "PARAM" not in at.accepts or not at.first:
        return None
    if at.called:
        return at.says(
            "P015",
            f"`{at.token}` is used here as in an adapter, and this is a method",
            "put the use into an adapter: `adapter name { ... }`",
        )
    close = nearest(at.token, (*CLAUSES, *RESERVED))
    mend = f"did you mean `{close[0]}`?" if close else f"the clauses are {_listed(CLAUSES)}"
    return at.says("P011", f"there is no clause `{at.token}`", mend)


def _other_sign(at: Refused) -> Mistake | None:
    """One sign where another of the same look or use belongs."""
    kind, accepts = at.kind, at.accepts
    if kind in ("EQUAL", "COLON", "EQUALS") and "TILDE" in accepts:
        mend = f"write `~`, as in `{at.shape}`" if at.shape else "write `~`"
        return at.says("P012", f"expected `~` before the init, found `{at.token}`", mend)
    if kind in ("TILDE", "EQUALS") and "EQUAL" in accepts:
        return at.says("P012", f"expected `=`, found `{at.token}`", "write `=`")
    if kind == "EQUAL" and "EQUALS" in accepts:
        return at.says("P012", "expected a comparison, found `=`", "equal is written `==`")
    if kind in ("EQUAL", "TILDE") and "COLON" in accepts:
        is_input = at.head is not None and at.head.type == "INPUT"
        example = "task : index(tasks)" if is_input else "r: int = 8"
        return at.says("P012", f"expected `:` and a type, found `{at.token}`", f"as in `{example}`")
    if kind in _COMPARISONS and "PLUS" in accepts:
        return at.says("P012", "comparisons do not chain", "join two of them: `a < b and b < c`")
    return None


def _missing(at: Refused) -> Mistake | None:
    """A type, or an operator between two operands."""
    if at.head is None or at.previous is None:
        return None
    in_head = at.head.type in ("METHOD", "ADAPTER") and "COLON" in at.accepts
    if in_head and at.kind in ("COMMA", "RPAR"):
        return at.says(
            "P012",
            f"the hyper-parameter `{at.previous}` has no type",
            f"write `{at.previous}: int`, or another type",
        )
    operand = is_word(at.token) or at.kind in ("NUMBER", "STRING", "LPAR")
    if operand and "PLUS" in at.accepts and at.token not in CONNECTORS:
        return at.says(
            "P012",
            f"expected an operator between `{_short(at.previous)}` and `{_short(at.token)}`",
            "a product is written `*`, a matrix product `@`",
        )
    return None


def _expected(at: Refused) -> Mistake:
    message = f"expected {_wanted(at.accepts)}"
    within = at.head is not None and at.previous is not None
    if within:
        message += f" after `{_short(str(at.previous))}`"
    mend = f"as in `{at.shape}`" if at.shape else None
    if at.kind == "$END" or (within and at.first):
        return Mistake("P012", message, at.gap, mend)
    return at.says("P012", f"{message}, found `{_short(at.token)}`", mend)


def _wanted(accepts: frozenset[str]) -> str:  # noqa: PLR0911 -- one for each kind
    if accepts >= _OPERAND:
        return "an expression"
    if accepts >= {"STRING", "NAME"}:
        return "a position" if "LPAR" in accepts else "a name or a quoted path"
    if "NAME" in accepts:
        return "a name or `none`" if "NONE" in accepts else "a name"
    if "METHOD" in accepts:
        return "`method`, `adapter` or `from`"
    found = [text for kind, text in _NAMED.items() if kind in accepts]
    if found:
        return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)
    if "COMPOSITION" in accepts:
        return "a clause"
    if "USE" in accepts:
        return "the use of a method"
    words = [f"`{word}`" for word in CONNECTORS if word.upper() in accepts]
    return " or ".join(words) if words else "something else"


def _short(token: str) -> str:
    text = " ".join(token.split())
    return text if len(text) <= 24 else text[:23] + "…"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
