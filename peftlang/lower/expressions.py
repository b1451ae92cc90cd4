"""Expressions: from the syntax tree to typed nodes, by the table of builtins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from peftlang.diagnostics import Source, Span, did_you_mean
from peftlang.ir.builtins import BUILTINS, Builtin, Signature, as_dim
from peftlang.ir.dims import Dim, TooComplex
from peftlang.ir.expr import Apply, DimValue, Expr, Hyper, Number
from peftlang.ir.types import Level, Type, TypeFact
from peftlang.lower.dimensions import Dimensions
from peftlang.lower.report import Place, Report
from peftlang.lower.tree import operands, walk
from peftlang.lower.values import LARGEST
from peftlang.syntax import nodes as n

MAX_RANK = 8
"""Most named dimensions of one value; more are a mistake, and einsum has 26 letters."""

CALLABLE = {
    name: entry for name, entry in BUILTINS.items() if entry.signature.startswith(f"{name}(")
}
"""Builtins that a spec calls by name, operators not among them."""

OF_ATTENTION = ("attend", "scores", "mix", "prefix_mass", "project_k", "project_v")
"""Builtins that look at the attention product of their site."""

_ELEMENTWISE = BUILTINS["identity"]

Resolve = Callable[[n.Name, Source], Expr | None]


@dataclass(frozen=True)
class Operand:
    """A lowered argument and where it was written."""

    value: Expr
    span: Span


class Expressions:
    """Lowers the expressions of one method at one kind of site.

    Args:
        resolve: What a name stands for; reports and returns None when it is nothing.
        functions: Names of the hyper-parameters that are functions.
        variables: What other names of the method are, in words.
        dimensions: Reads dimensions after ``over``.
        report: Takes what is wrong.
        elsewhere: Functions that these sites do not have, and the position that does.
    """

    def __init__(
        self, resolve: Resolve, functions: frozenset[str], variables: Mapping[str, str],
        dimensions: Dimensions, report: Report, elsewhere: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._resolve, self._functions, self._variables = resolve, functions, variables
        self._dimensions, self._report = dimensions, report
        self._elsewhere = elsewhere or {}
        self._places: dict[int, tuple[Expr, Place]] = {}

    def lower(self, root: n.Expr, source: Source) -> Expr | None:
        """The typed expression, or None after at least one diagnostic."""
        done: dict[int, Expr | None] = {}
        for node in walk(root):
            below = [done[id(child)] for child in operands(node)]
            values = [value for value in below if value is not None]
            complete = len(values) == len(below)
            done[id(node)] = self._lower(node, values, source) if complete else None
        return done[id(root)]

    def place(self, expr: Expr) -> Place | None:
        """Where an expression was written."""
        found = self._places.get(id(expr))
        return found[1] if found else None

    def _lower(  # noqa: PLR0911 -- one case for each kind of node
        self, node: n.Expr, below: Sequence[Expr], source: Source
    ) -> Expr | None:
        place = Place(source, node.span)
        match node:
            case n.Name():
                found = self._resolve(node, source)
                if found is not None:
                    self._places.setdefault(id(found), (found, place))
                return found
            case n.Number():
                return self._number(node, place)
            case n.Unary():
                if isinstance(below[0], Number) and not isinstance(below[0].value, str):
                    return self._kept(replace(below[0], value=-below[0].value), place)
                return self._apply("neg", BUILTINS["neg"], self._operands(node, below), place)
            case n.Binary():
                return self._binary(node, below, place)
            case n.Call():
                return self._call(node, below, place)
            case n.Index():
                return self._index(node, below, place)
            case n.String():
                text = Number(node.value, Type(), (node.span.start, node.span.end))
                return self._kept(text, place)
            case n.Boolean():
                truth = Type(kind="bool")
                return self._kept(
                    Number(node.value, truth, (node.span.start, node.span.end)), place
                )
        self._condition(place)
        return None

    def _condition(self, place: Place) -> None:
        self._error(
            "T211", "this is a condition, and a value is wanted here", place,
            "conditions stand after `where` and `ensure`",
        )  # fmt: skip

    def _number(self, node: n.Number, place: Place) -> Expr | None:
        if abs(node.value) > LARGEST and isinstance(node.value, int):
            self._error("T212", f"whole numbers go up to {LARGEST}", place)
            return None
        if node.value == float("inf"):
            self._error("T212", "this has no finite value", place)
            return None
        kind = Type(kind="int" if isinstance(node.value, int) else "float")
        return self._kept(Number(node.value, kind, (node.span.start, node.span.end)), place)

    def _operands(self, node: n.Expr, below: Sequence[Expr]) -> list[Operand]:
        spans = [child.span for child in operands(node)]
        return [Operand(value, span) for value, span in zip(below, spans, strict=True)]

    def _binary(self, node: n.Binary, below: Sequence[Expr], place: Place) -> Expr | None:
        zero = isinstance(below[1], Number) and below[1].value == 0
        if node.op == "/" and zero:
            self._error("T212", "this divides by zero", Place(place.source, node.right.span))
            return None
        sign = Place(place.source, node.op_span)
        return self._apply(node.op, BUILTINS[node.op], self._operands(node, below), place, at=sign)

    def _index(self, node: n.Index, below: Sequence[Expr], place: Place) -> Expr | None:
        if len(node.indices) != 1:
            self._error(
                "T209", "one index is wanted, and here are several", place,
                "index the result again: `x[i][j]`",
            )  # fmt: skip
            return None
        return self._apply("index", BUILTINS["index"], self._operands(node, below), place)

    def _call(self, node: n.Call, below: Sequence[Expr], place: Place) -> Expr | None:
        name = node.function.text
        entry = _ELEMENTWISE if name in self._functions else CALLABLE.get(name)
        if name in self._elsewhere and name not in self._functions:
            at = Place(place.source, node.function.span)
            self._error("S403", f"`{name}` is a function of {self._elsewhere[name]} alone", at)
            return None
        if entry is None:
            self._unknown_function(node.function, place.source)
            return None
        arguments = [a for a in node.arguments if isinstance(a, n.Argument)]
        positional: list[Operand] = []
        keywords: dict[str, Operand] = {}
        for argument, value in zip(arguments, below, strict=True):
            operand = Operand(value, argument.value.span)
            if argument.name is None:
                positional.append(operand)
            elif not self._keyword(name, entry, argument.name, operand, keywords, place.source):
                return None
        over = self._over(name, entry, node, place.source)
        if over is None or not self._arity(name, entry, positional, node, place.source):
            return None
        return self._apply(
            name, entry, positional, place, keywords=keywords, over=over,
            over_at=next((a.span for a in node.arguments if isinstance(a, n.Over)), None),
            is_hyper=name in self._functions,
        )  # fmt: skip

    def _unknown_function(self, function: n.Ident, source: Source) -> None:
        name, place = function.text, Place(source, function.span)
        if name in self._variables:
            message = f"`{name}` is {self._variables[name]}, not a function"
            self._error("N103", message, place, f"to multiply, write `{name} * …` or `{name} @ …`")
            return
        known = {*CALLABLE, *self._functions}
        self._error("N103", f"there is no function `{name}`", place, did_you_mean(name, known))

    def _keyword(
        self, name: str, entry: Builtin, key: n.Ident, operand: Operand,
        keywords: dict[str, Operand], source: Source,
    ) -> bool:  # fmt: skip
        place = Place(source, key.span)
        if key.text not in entry.keywords:
            has = did_you_mean(key.text, entry.keywords) or f"it is called as `{entry.signature}`"
            self._error("N110", f"`{name}` has no argument named `{key.text}`", place, has)
            return False
        if key.text in keywords:
            self._error("N111", f"`{key.text}` is given twice", place)
            return False
        if operand.value.type.dims or operand.value.type.level is not Level.CONST:
            at = Place(source, operand.span)
            self._error("T209", f"`{key.text}` is a number, and this is {operand.value.type}", at)
            return False
        keywords[key.text] = operand
        return True

    def _over(
        self, name: str, entry: Builtin, node: n.Call, source: Source
    ) -> tuple[Dim, ...] | None:
        found: list[Dim] = []
        for argument in node.arguments:
            if not isinstance(argument, n.Over):
                continue
            if not entry.over:
                place = Place(source, argument.span)
                self._error("N110", f"`{name}` does not work over a dimension", place,
                            f"it is called as `{entry.signature}`")  # fmt: skip
                return None
            dim = self._dimensions.read(argument.dim, source)
            if dim is None:
                return None
            found.append(dim)
        return tuple(found)

    def _arity(
        self, name: str, entry: Builtin, given: Sequence[Operand], node: n.Call, source: Source
    ) -> bool:
        least, most = entry.arity
        if least <= len(given) <= most:
            return True
        signature = f"{name}(x)" if name in self._functions else entry.signature
        wanted = str(least) if least == most else f"{least} to {most}"
        message = f"`{name}` takes {wanted} operand{'s' * (wanted != '1')}, not {len(given)}"
        few = len(given) < least
        at = node.function.span if few else given[most].span
        self._error("N111" if few else "N110", message, Place(source, at),
                    f"it is called as `{signature}`")  # fmt: skip
        return False

    def _apply(
        self, op: str, entry: Builtin, args: Sequence[Operand], place: Place, *,
        keywords: Mapping[str, Operand] | None = None, over: tuple[Dim, ...] = (),
        over_at: Span | None = None, at: Place | None = None, is_hyper: bool = False,
    ) -> Expr | None:  # fmt: skip
        named = {key: operand.value for key, operand in (keywords or {}).items()}
        values = tuple(operand.value for operand in args)
        for operand in args:
            if (
                isinstance(operand.value, Number)
                and isinstance(operand.value.value, str | bool)
                and not (entry.texts and isinstance(operand.value.value, str))
            ):
                what = "a text" if isinstance(operand.value.value, str) else "true or false"
                self._error("T211", f"this is {what}, and a value is wanted here",
                            Place(place.source, operand.span))  # fmt: skip
                return None
        try:
            type_ = entry.rule(Signature(values, named, over))
            if len(type_.dims) > MAX_RANK:
                raise TypeFact(f"{type_} has more than {MAX_RANK} dimensions", code="T213")
        except TypeFact as fact:
            self._fact(fact, args, place, at, over_at)
            return None
        except (TooComplex, ZeroDivisionError) as error:
            zero = isinstance(error, ZeroDivisionError)
            message = "a dimension is divided by zero" if zero else str(error)
            self._error("T212" if zero else "T213", message, at or place)
            return None
        span = (place.span.start, place.span.end)
        found = Apply(op, values, type_, tuple(named.items()), over, is_hyper, span)
        return self._kept(found, place)

    def _fact(
        self, fact: TypeFact, args: Sequence[Operand], place: Place, at: Place | None,
        over_at: Span | None,
    ) -> None:  # fmt: skip
        labels = [(Place(place.source, o.span), f"this is {o.value.type}")
                  for o in args if o.value.type.dims]  # fmt: skip
        if at is None and fact.code == "T207" and over_at is not None:
            at = Place(place.source, over_at)
        elif at is None and fact.argument is not None and fact.argument < len(args):
            at = Place(place.source, args[fact.argument].span)
            labels = [label for label in labels if label[0] != at]
        if at is None:
            at = place
        shown = labels if len(labels) <= 3 else []
        self._report.error(fact.code, fact.message, at, help=fact.help, labels=shown)

    def _kept(self, expr: Expr, place: Place) -> Expr:
        self._places[id(expr)] = (expr, place)
        return expr

    def _error(self, code: str, message: str, place: Place, advice: str | None = None) -> None:
        self._report.error(code, message, place, help=advice)


def hyper_value(name: str, kind: str, span: Span) -> Expr:
    """The expression that a hyper-parameter's name stands for."""
    pair = (span.start, span.end)
    if kind == "int":
        return DimValue(Dim.of(name), Type(kind="int"), pair)
    return Hyper(name, Type(kind="bool" if kind == "bool" else "float"), pair)


def dim_of(expr: Expr) -> Dim | None:
    """``expr`` as a dimension, or None when it is none."""
    try:
        return as_dim(expr)
    except (TooComplex, ZeroDivisionError):
        return None
