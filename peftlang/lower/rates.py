"""Learning rates of tensors, as multiples of the adapter's."""

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import Expr, names
from peftlang.lower.clauses import Clauses
from peftlang.lower.expressions import Expressions
from peftlang.lower.report import Place, Report
from peftlang.syntax import nodes as n


class Rates:
    """Lowers ``rate`` clauses.

    Args:
        expressions: Lowers their values.
        report: Takes what is wrong.
    """

    def __init__(self, expressions: Expressions, report: Report) -> None:
        self._expressions, self._report = expressions, report

    def lower(self, clauses: Clauses) -> dict[str, Expr]:
        """The rate of every tensor that has one.

        Reports M317 for a name that is no parameter, M301 for one whose rate is said twice, and
        T209 for a value that is not a number.
        """
        found: dict[str, Expr] = {}
        tensors = [entry.node for entry in clauses.tensors]
        trained = {node.name.text for node in tensors if isinstance(node, n.Param)}
        for clause in clauses.rates:
            place = Place(clause.source, clause.node.value.span)
            value = self._expressions.lower(clause.node.value, clause.source)
            if value is not None and (value.type.dims or names(value)):
                self._report.error("T209", "a learning rate is so many times the adapter's, a "
                                   "number that no weight changes", place)  # fmt: skip
                continue
            for ident in clause.node.names:
                at = Place(clause.source, ident.span)
                if ident.text not in trained:
                    self._report.error("M317", f"`{ident.text}` is not a parameter of this method",
                                       at, help=did_you_mean(ident.text, trained))  # fmt: skip
                elif ident.text in found:
                    self._report.error("M301", f"the rate of `{ident.text}` is said twice", at)
                elif value is not None:
                    found[ident.text] = value
        return found
