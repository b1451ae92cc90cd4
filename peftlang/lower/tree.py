"""Walking expressions of the syntax tree, without recursion."""

from collections.abc import Iterator

from peftlang.syntax import nodes as n


def operands(expr: n.Expr) -> tuple[n.Expr, ...]:
    """The expressions directly below ``expr``; dimensions after ``over`` are not among them."""
    match expr:
        case n.Unary():
            return (expr.operand,)
        case n.Binary() | n.Compare() | n.Logic():
            return expr.left, expr.right
        case n.Call():
            return tuple(a.value for a in expr.arguments if isinstance(a, n.Argument))
        case n.Index():
            return expr.base, *expr.indices
    return ()


def walk(root: n.Expr) -> Iterator[n.Expr]:
    """Every expression at and below ``root``, operands before what uses them."""
    stack: list[tuple[n.Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        else:
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(operands(node)))


def read(root: n.Expr) -> Iterator[tuple[str, n.Node]]:
    """Every name that ``root`` reads and where: values, functions, dimensions after ``over``."""
    for node in walk(root):
        if isinstance(node, n.Name):
            yield node.text, node
        elif isinstance(node, n.Call):
            yield node.function.text, node.function
            for argument in node.arguments:
                if isinstance(argument, n.Over):
                    yield from read(argument.dim)
