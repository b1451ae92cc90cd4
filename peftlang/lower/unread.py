"""Warnings about what a method declares and never uses."""

from peftlang.ir.expr import names as names_read
from peftlang.ir.method import Method
from peftlang.lower.clauses import Clauses
from peftlang.lower.names import Names
from peftlang.lower.report import Report
from peftlang.lower.tree import read
from peftlang.lower.units import Definition
from peftlang.syntax import nodes as n


def warn_of_unread(
    definition: Definition, clauses: Clauses, names: Names, method: Method, report: Report
) -> None:
    """Report names that nothing reads (N113), and a change that trains nothing (M311).

    A method of penalties alone changes nothing: what it is for is trained by others beside it.
    """
    found: set[str] = set()
    for placed in clauses.expressions():
        found |= {name for name, _ in read(placed.node)}
    for parameter in definition.node.parameters:
        if parameter.default is not None:
            found |= {name for name, _ in read(parameter.default)}
    if clauses.function and not clauses.compositions:
        found.add(clauses.function.node.name.text)
    found |= _in_position(clauses)
    for name, entry in names.declared.items():
        if name not in found:
            report.warning("N113", f"`{name}` is {entry.what} that nothing reads", entry.place)
    trained = {tensor.name for tensor in method.tensors if tensor.trainable}
    values = [composition.value for composition in method.compositions]
    if values and not trained & names_read(*values, *method.penalties):
        report.warning("M311", f"`{method.name}` reads no parameter, so there is nothing to train",
                       definition.place)  # fmt: skip


def _in_position(clauses: Clauses) -> set[str]:
    if clauses.position is None:
        return set()
    found: set[str] = set()
    stack: list[n.Selector] = [clauses.position.node]
    while stack:
        node = stack.pop()
        if isinstance(node, n.Either):
            stack.extend(node.options)
        elif isinstance(node, n.Scoped):
            stack.append(node.selector)
            for scope in node.scopes:
                if isinstance(scope, n.Except):
                    stack.append(scope.selector)
                elif isinstance(scope, n.Where):
                    found |= {name for name, _ in read(scope.condition)}
                elif isinstance(scope, n.Layers):
                    ends = [end for r in scope.ranges for end in (r.first, r.last) if end]
                    found |= {name for end in ends for name, _ in read(end)}
    return found
