"""How tensors start: the table of initialisers, or an expression of W and b."""

from collections.abc import Callable

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import DimValue, Expr
from peftlang.ir.inits import INITIALISERS, Initialiser
from peftlang.ir.method import Init
from peftlang.ir.positions import SITE_DIMS
from peftlang.ir.types import Type
from peftlang.lower.dimensions import Dimensions, shape
from peftlang.lower.expressions import CALLABLE, Expressions
from peftlang.lower.names import SITE_VALUES
from peftlang.lower.report import Place, Report
from peftlang.syntax import nodes as n

_OLD = SITE_VALUES | SITE_DIMS
"""Names that, alone, are an expression: what the site had before."""


class Initials:
    """Lowers initial values.

    Args:
        expressions: Lowers expressions whose names are restricted to what exists then.
        dimensions: Reads dimensions.
        report: Takes what is wrong.
        taken: Whether the method declares a name itself, so that it is no initialiser.
    """

    def __init__(
        self, expressions: Expressions, dimensions: Dimensions, report: Report,
        taken: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._expressions, self._dimensions = expressions, dimensions
        self._report, self._taken = report, taken

    def lower(
        self, expr: n.Expr, dims: tuple[Dim, ...], source: Source, *, trainable: bool
    ) -> tuple[Init, str] | None:
        """The initial value and the kind of number that it makes, or None after a diagnostic."""
        name = self._name(expr)
        if name is not None and name.text in INITIALISERS:
            entry = INITIALISERS[name.text]
            if trainable and entry.kind == "int":
                self._report.error(
                    "T209", f"`{name.text}` makes whole numbers, which cannot be trained",
                    Place(source, name.span), help="declare it as a `buffer`",
                )  # fmt: skip
                return None
            found = self._call(entry, expr, dims, source)
            return None if found is None else (found, entry.kind)
        called = isinstance(expr, n.Call)
        if name is not None and name.text not in CALLABLE and (called or name.text not in _OLD):
            self._unknown(name, source)
            return None
        return self._expression(expr, dims, source)

    def _name(self, expr: n.Expr) -> n.Ident | n.Name | None:
        if isinstance(expr, n.Call):
            return expr.function
        return expr if isinstance(expr, n.Name) and not self._taken(expr.text) else None

    def _unknown(self, name: n.Ident | n.Name, source: Source) -> None:
        known = {*INITIALISERS, *CALLABLE}
        advice = did_you_mean(name.text, known) or f"there are {', '.join(INITIALISERS)}"
        self._report.error("N103", f"there is no initialiser `{name.text}`",
                           Place(source, name.span), help=advice)  # fmt: skip

    def _expression(
        self, expr: n.Expr, dims: tuple[Dim, ...], source: Source
    ) -> tuple[Init, str] | None:
        value = self._expressions.lower(expr, source)
        if value is None:
            return None
        if value.type.dims != dims:
            number = not value.type.dims
            self._report.error(
                "T208", f"the tensor is {shape(dims)}, and this value is {value.type}",
                Place(source, expr.span),
                help=f"`constant({source.slice(expr.span)})` fills it" if number else None,
            )  # fmt: skip
            return None
        return Init(expression=value), "float"

    def _call(
        self, entry: Initialiser, expr: n.Expr, dims: tuple[Dim, ...], source: Source
    ) -> Init | None:
        arguments = expr.arguments if isinstance(expr, n.Call) else ()
        args: list[Expr] = []
        keywords: list[tuple[str, Expr]] = []
        complete = True
        for argument in arguments:
            if isinstance(argument, n.Over):
                self._report.error("N110", f"`{entry.name}` does not work over a dimension",
                                   Place(source, argument.span))  # fmt: skip
                return None
            value = self._argument(entry, argument, source, {key for key, _ in keywords})
            if value is None:
                complete = False
            elif argument.name is None:
                args.append(value)
            else:
                keywords.append((argument.name.text, value))
        if not complete or not self._fits(entry, args, dims, Place(source, expr.span)):
            return None
        return Init(name=entry.name, args=tuple(args), keywords=tuple(keywords))

    def _argument(
        self, entry: Initialiser, argument: n.Argument, source: Source, given: set[str]
    ) -> Expr | None:
        if argument.name is not None:
            key, place = argument.name.text, Place(source, argument.name.span)
            if key not in entry.keywords:
                advice = did_you_mean(key, entry.keywords)
                self._report.error(
                    "N110", f"`{entry.name}` has no argument named `{key}`", place,
                    help=advice or f"it is called as `{entry.signature}`",
                )  # fmt: skip
                return None
            if key in given:
                self._report.error("N111", f"`{key}` is given twice", place)
                return None
        elif entry.dims:
            dim = self._dimensions.read(argument.value, source, sized=True)
            return None if dim is None else DimValue(dim, Type(kind="int"))
        value = self._expressions.lower(argument.value, source)
        if value is not None and value.type.dims:
            self._report.error("T209", f"a number is wanted here, and this is {value.type}",
                               Place(source, argument.value.span))  # fmt: skip
            return None
        return value

    def _fits(
        self, entry: Initialiser, args: list[Expr], dims: tuple[Dim, ...], place: Place
    ) -> bool:
        least, most = entry.arity
        if not least <= len(args) <= most:
            advice = f"it is called as `{entry.signature}`"
            keys = ", ".join(entry.keywords)
            wanted = f"{least} arguments" if least else f"its arguments by name: {keys}"
            if not least and not entry.keywords:
                wanted = "no arguments"
            self._report.error(
                "N111" if len(args) < least else "N110", f"`{entry.name}` takes {wanted}", place,
                help=advice,
            )  # fmt: skip
            return False
        fault = entry.check(dims, tuple(a.dim for a in args if isinstance(a, DimValue)))
        if fault is not None:
            self._report.error("T208", f"{fault}, and the tensor is {shape(dims)}", place)
        return fault is None
