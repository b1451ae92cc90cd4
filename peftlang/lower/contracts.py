"""Contracts: ``ensure`` clauses, typed; deciding them is not done here."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.expr import DimValue, Expr
from peftlang.ir.method import Contract
from peftlang.ir.types import Type
from peftlang.lower.clauses import Placed
from peftlang.lower.dimensions import Dimensions
from peftlang.lower.expressions import Expressions
from peftlang.lower.report import Place, Report
from peftlang.lower.units import Definition
from peftlang.syntax import nodes as n

if TYPE_CHECKING:
    from peftlang.lower.methods import Wanted

PLAIN = ("identity_at_init", "mergeable", "causal", "token_local")
OF_MATRIX = ("orthogonal", "symmetric")
FORMS = (
    *PLAIN, "trainable == expr", "rank(expr) <= expr",
    *(f"{name}(expr)" for name in OF_MATRIX), "equivalent(method(args))",
)  # fmt: skip
_WORDS = (*PLAIN, *OF_MATRIX, "trainable", "rank", "equivalent")


class Contracts:
    """Lowers ``ensure`` clauses.

    Args:
        expressions: Lowers subjects.
        dimensions: Reads bounds.
        wanted: The method, whose file says which other methods there are.
        report: Takes what is wrong.
    """

    def __init__(
        self, expressions: Expressions, dimensions: Dimensions, wanted: "Wanted", report: Report
    ) -> None:
        self._expressions, self._dimensions = expressions, dimensions
        self._wanted, self._report = wanted, report

    def lower(self, clauses: Iterable[Placed[n.Ensure]]) -> list[Contract]:
        """Every property of every clause that is one."""
        lowered = [
            self._contract(expr, clause.source)
            for clause in clauses for expr in clause.node.properties
        ]  # fmt: skip
        return [contract for contract in lowered if contract is not None]

    def _contract(self, expr: n.Expr, source: Source) -> Contract | None:
        text, span = source.slice(expr.span), (expr.span.start, expr.span.end)
        match expr:
            case n.Name() if expr.text in PLAIN:
                return Contract(property=expr.text, text=text, span=span)
            case n.Compare():
                return self._comparison(expr, source, text, span)
            case n.Call() if expr.function.text in OF_MATRIX:
                subject = self._subject(expr, source)
                if subject is None:
                    return None
                return Contract(property=expr.function.text, subject=subject, text=text, span=span)
            case n.Call() if expr.function.text == "equivalent":
                return self._equivalent(expr, source, text, span)
        self._unknown(expr, source)
        return None

    def _unknown(self, expr: n.Expr, source: Source) -> None:
        name: n.Node = expr.function if isinstance(expr, n.Call) else expr
        word = source.slice(name.span)
        message = f"`{word}` is not a property"
        advice = did_you_mean(word, _WORDS)
        if word in _WORDS:
            message = f"`{word}` is not written so"
            advice = next(f"write `{form}`" for form in FORMS if form.startswith(word))
        every = ", ".join(f"`{form}`" for form in FORMS)
        place = Place(source, name.span)
        self._report.error("M308", message, place, help=advice or f"there are {every}")

    def _comparison(
        self, expr: n.Compare, source: Source, text: str, span: tuple[int, int]
    ) -> Contract | None:
        left, relation = expr.left, expr.op
        subject: Expr | None = None
        if isinstance(left, n.Name) and left.text == "trainable":
            name = "trainable"
        elif isinstance(left, n.Call) and left.function.text == "rank":
            name, subject = "rank", self._subject(left, source)
            if subject is None:
                return None
        else:
            self._unknown(left, source)
            return None
        if relation == "!=":
            self._report.error("M308", "a property cannot be an inequality of this kind",
                               Place(source, expr.op_span))  # fmt: skip
            return None
        bound = self._dimensions.read(expr.right, source, sized=True)
        if bound is None:
            return None
        value = DimValue(bound, Type(kind="int"), (expr.right.span.start, expr.right.span.end))
        return Contract(property=name, subject=subject, relation=relation,
                        bound=value, text=text, span=span)  # fmt: skip

    def _subject(self, call: n.Call, source: Source) -> Expr | None:
        """The matrix that a property speaks of."""
        arguments = call.arguments
        only = arguments[0] if len(arguments) == 1 else None
        if not isinstance(only, n.Argument) or only.name is not None:
            self._report.error("M308", f"`{call.function.text}` speaks of one expression",
                               Place(source, call.span))  # fmt: skip
            return None
        value = self._expressions.lower(only.value, source)
        if value is None:
            return None
        square = call.function.text == "symmetric"
        if len(value.type.dims) < 2 or (square and value.type.dims[-1] != value.type.dims[-2]):
            what = "a square matrix" if square else "a matrix"
            self._report.error("T209", f"`{call.function.text}` speaks of {what}, and this is "
                               f"{value.type}", Place(source, only.value.span))  # fmt: skip
            return None
        return value

    def _equivalent(
        self, expr: n.Call, source: Source, text: str, span: tuple[int, int]
    ) -> Contract | None:
        first, *named = expr.arguments or (None,)
        other = first.value if isinstance(first, n.Argument) and first.name is None else None
        if not isinstance(other, n.Call | n.Name):
            place = Place(source, expr.span)
            self._report.error("M308", "`equivalent` speaks of one method", place,
                               help="such as `equivalent(prefix(l = l))`")  # fmt: skip
            return None
        name = other.function if isinstance(other, n.Call) else other
        known = self._wanted.definition.unit.names
        definition = known.get(name.text)
        if definition is None or not isinstance(definition.node, n.Method):
            known = {key: d for key, d in known.items() if isinstance(d.node, n.Method)}
            place, advice = Place(source, name.span), did_you_mean(name.text, known)
            self._report.error("N104", f"there is no method `{name.text}`", place, help=advice)
            return None
        given = other.arguments if isinstance(other, n.Call) else ()
        arguments = self._arguments(given, definition, source)
        tensors = self._correspondence(named, definition, source)
        if arguments is None or tensors is None:
            return None
        return Contract(property="equivalent", method=name.text, arguments=tuple(arguments),
                        tensors=tensors, text=text, span=span)  # fmt: skip

    def _correspondence(
        self, named: Iterable[n.Argument | n.Over | None], definition: Definition, source: Source
    ) -> tuple[tuple[str, str], ...] | None:
        """``A = P_k``: the other method's tensor ``A`` is this one's ``P_k``."""
        theirs, ours = _tensors(definition), _tensors(self._wanted.definition)
        found: list[tuple[str, str]] = []
        for argument in named:
            key = argument.name if isinstance(argument, n.Argument) else None
            value = argument.value if isinstance(argument, n.Argument) else None
            if key is None or not isinstance(value, n.Name):
                span = argument.span if argument is not None else definition.node.span
                self._report.error("M308", "a correspondence is of two tensors",
                                   Place(source, span),
                                   help="write `their_tensor = my_tensor`")  # fmt: skip
                return None
            for name, known, node in ((key.text, theirs, key), (value.text, ours, value)):
                if name not in known:
                    self._report.error("M308", f"there is no tensor `{name}`",
                                       Place(source, node.span),
                                       help=did_you_mean(name, known))  # fmt: skip
                    return None
            found.append((key.text, value.text))
        return tuple(found)

    def _arguments(
        self, given: Iterable[n.Argument | n.Over], definition: Definition, source: Source
    ) -> list[tuple[str, Expr]] | None:
        names = [p.name.text for p in definition.node.parameters]
        found: dict[str, Expr] = {}
        for place, argument in enumerate(given):
            value = (self._expressions.lower(argument.value, source)
                     if isinstance(argument, n.Argument) else None)  # fmt: skip
            if value is None or not isinstance(argument, n.Argument):
                return None
            key = argument.name.text if argument.name else names[place : place + 1]
            if isinstance(key, list):
                key = key[0] if key else ""
            if key not in names or key in found:
                self._report.error(
                    "N111" if key in found else "N110",
                    f"`{definition.name}` has no argument `{key}`" if key not in found
                    else f"`{key}` is given twice", Place(source, argument.span),
                    help=did_you_mean(key, names),
                )  # fmt: skip
                return None
            found[key] = value
        missing = [p.name.text for p in definition.node.parameters
                   if p.default is None and p.name.text not in found]  # fmt: skip
        if missing:
            self._report.error("N111", f"`{definition.name}` needs `{missing[0]}`", None)
            return None
        return list(found.items())


def _tensors(definition: Definition) -> list[str]:
    clauses = definition.node.clauses
    return [c.name.text for c in clauses if isinstance(c, n.Param | n.Buffer)]
