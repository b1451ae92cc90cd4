"""Shapes: expressions of the syntax tree as dimensions."""

from collections.abc import Callable, Iterable, Mapping

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.dims import MAX_COEFFICIENT, Dim, TooComplex
from peftlang.ir.positions import NUMBERS_OF_SITES, SITE_DIMS
from peftlang.lower.report import Place, Report
from peftlang.lower.tree import operands, walk
from peftlang.syntax import nodes as n

UNSIZED = frozenset({"keys", "tokens", "batch"})
"""Dimensions that differ from call to call, so that no tensor of a method can have them."""


class _Fault(Exception):
    def __init__(self, code: str, message: str, node: n.Node, mend: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.node, self.mend = code, message, node, mend


class Dimensions:
    """Reads expressions as dimensions.

    Args:
        symbols: Names of whole-number hyper-parameters, or what stands for them.
        others: What other names of the method are, in words, for messages.
        report: Takes what is wrong.
        unsized: Names among the symbols that differ from call to call.
    """

    def __init__(
        self, symbols: Mapping[str, Dim], others: Mapping[str, str], report: Report,
        unsized: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._symbols, self._others, self._report = symbols, others, report
        self._unsized = UNSIZED | unsized

    def read(self, expr: n.Expr, source: Source, *, sized: bool = False) -> Dim | None:
        """The dimension that ``expr`` is, or None and a diagnostic.

        Args:
            expr: What is written.
            source: The text that it is in.
            sized: Whether sizes that differ from call to call are refused.
        """
        done: dict[int, Dim] = {}
        try:
            for node in walk(expr):
                below = [done[id(child)] for child in operands(node)]
                done[id(node)] = self._dim(node, below, sized)
        except _Fault as fault:
            place = Place(source, fault.node.span)
            self._report.error(fault.code, fault.message, place, help=fault.mend)
            return None
        except (TooComplex, ZeroDivisionError) as error:
            message = "this divides by zero"
            if isinstance(error, TooComplex):
                message = "this dimension is too complex"
            self._report.error("T213", message, Place(source, expr.span))
            return None
        return done[id(expr)]

    def _dim(self, node: n.Expr, below: list[Dim], sized: bool) -> Dim:
        match node:
            case n.Number():
                if isinstance(node.value, float):
                    raise _Fault("T205", f"a size is a whole number, and this is {node.text}", node)
                if node.value > MAX_COEFFICIENT:
                    raise _Fault("T212", "this number is too large for a size", node)
                return Dim.of(node.value)
            case n.Name():
                return self._named(node, sized)
            case n.Unary(op="-"):
                return -below[0]
            case n.Binary(op="+" | "-" | "*" | "/"):
                return _OPERATIONS[node.op](*below)
            case n.Binary(op="**"):
                return _power(node, *below)
        raise _Fault("T211", "a shape is made of whole numbers, dimensions and `+ - * /`", node)

    def _named(self, node: n.Name, sized: bool) -> Dim:
        name = node.text
        if name in self._symbols and not (sized and name in self._unsized):
            return self._symbols[name]
        refused = self._unsized | NUMBERS_OF_SITES if sized else frozenset()
        if name in SITE_DIMS - refused:
            return Dim.of(name)
        known = sorted({*self._symbols, *SITE_DIMS} - refused)
        message = f"`{name}` is not a dimension"
        if name in self._unsized:
            message = f"`{name}` differs from call to call, so no tensor can have its size"
        elif name in NUMBERS_OF_SITES:
            message += f"; it is which of the `{name}s` a site is at, counted from 0"
        elif name in self._others:
            message += f"; it is {self._others[name]}"
        raise _Fault("T203", message, node, did_you_mean(name, known))


_OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b,
    "*": lambda a, b: a * b, "/": lambda a, b: a / b,
}  # fmt: skip


def _power(node: n.Binary, base: Dim, exponent: Dim) -> Dim:
    if exponent.constant is None or not 0 <= exponent.constant <= 8:
        raise _Fault("T205", "the power of a dimension is a whole number from 0 to 8", node.right)
    return base**exponent.constant


def shape(dims: Iterable[Dim]) -> str:
    """Dimensions as they are written: ``[r, d_x]``."""
    return f"[{', '.join(map(str, dims))}]"
