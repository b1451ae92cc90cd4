"""Expressions and selectors as text, on one line where they fit and broken where they do not."""

from collections.abc import Callable, Iterable

from peftlang.syntax import nodes as n

WIDTH = 100
STEP = 4
# A column from which everything fits on one line.
ONE_LINE = -100 * WIDTH

# How tightly a node binds; a part that binds less tightly than its place needs parentheses.
_LOOSE, _AND, _COMPARE, _SUM, _PRODUCT, _SIGNED, _POWER, _POSTFIX = range(8)
_BINARY = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "@": _PRODUCT, "**": _POWER}

Link = n.Binary | n.Compare | n.Logic


def expression(node: n.Expr, *, indent: int = 0, column: int = 0, tail: int = 0) -> str:
    """An expression as text.

    Args:
        node: what to write.
        indent: blanks before the line that it starts on; broken parts go further in.
        column: the column that it starts at.
        tail: how many characters must follow on its last line.
    """
    return _fit(node, _LOOSE, indent, column, tail)


def _binding(node: n.Expr) -> int:
    match node:
        case n.Binary():
            return _BINARY[node.op]
        case n.Compare():
            return _COMPARE
        case n.Logic():
            return _AND if node.op == "and" else _LOOSE
        case n.Unary():
            return _SIGNED
        case _:
            return _POSTFIX


def _sides(node: Link) -> tuple[int, int]:
    """What the left and the right part must bind at least."""
    binding = _binding(node)
    if isinstance(node, n.Compare):
        return _SUM, _SUM
    if binding == _POWER:
        return _POSTFIX, _SIGNED
    return binding, binding + 1


def _parenthesised(node: n.Expr, least: int) -> bool:
    return node.parens or _binding(node) < least


def _flat(node: n.Expr, least: int) -> str:
    text = _bare(node)
    return f"({text})" if _parenthesised(node, least) else text


def _bare(node: n.Expr) -> str:  # noqa: PLR0911 -- one for each kind
    match node:
        case n.Name() | n.Number():
            return node.text
        case n.String():
            return f'"{node.value}"'
        case n.Boolean():
            return "true" if node.value else "false"
        case n.Unary():
            return f"-{_flat(node.operand, _SIGNED)}"
        case n.Binary() | n.Compare() | n.Logic():
            left, right = _sides(node)
            return f"{_flat(node.left, left)} {node.op} {_flat(node.right, right)}"
        case n.Call():
            return f"{node.function.text}({', '.join(argument(one) for one in node.arguments)})"
        case n.Index():
            inner = ", ".join(_flat(one, _LOOSE) for one in node.indices)
            return f"{_flat(node.base, _POSTFIX)}[{inner}]"


def argument(node: n.Argument | n.Over) -> str:
    """One argument of a call, on one line."""
    if isinstance(node, n.Over):
        return f"over {_flat(node.dim, _LOOSE)}"
    value = _flat(node.value, _LOOSE)
    return f"{node.name.text} = {value}" if node.name else value


def _fit(node: n.Expr, least: int, indent: int, column: int, tail: int) -> str:
    text = _flat(node, least)
    if column + len(text) + tail <= WIDTH:
        return text
    if _parenthesised(node, least):
        inner = _fit_bare(node, indent + STEP, indent + STEP, 0)
        return f"(\n{' ' * (indent + STEP)}{inner}\n{' ' * indent})"
    return _fit_bare(node, indent, column, tail)


def _fit_bare(node: n.Expr, indent: int, column: int, tail: int) -> str:
    text = _bare(node)
    if column + len(text) + tail <= WIDTH:
        return text
    match node:
        case n.Call() if node.arguments:
            return listed(f"{node.function.text}(", node.arguments, _fit_argument, ")", indent)
        case n.Index():
            head = _fit(node.base, _POSTFIX, indent, column, 1)
            return listed(f"{head}[", node.indices, _fit_loose, "]", indent, comma=False)
        case n.Unary():
            return "-" + _fit(node.operand, _SIGNED, indent, column + 1, tail)
        case n.Binary() | n.Compare() | n.Logic():
            return _fit_chain(node, indent, column, tail)
        case _:
            return text


def _fit_chain(node: Link, indent: int, column: int, tail: int) -> str:
    """Operators of one strength, each on a line of its own before its operand."""
    operands: list[tuple[str, n.Expr, int]] = []
    first: n.Expr = node
    binding = _binding(node)
    least = _LOOSE
    while (
        isinstance(first, Link)
        and _binding(first) == binding
        and not (operands and _parenthesised(first, least))
    ):
        least, right = _sides(first)
        operands.append((first.op, first.right, right))
        first = first.left
    lines = [_fit(first, least, indent, column, 0)]
    inner = indent + STEP
    for op, operand, needed in reversed(operands):
        last = operand is operands[0][1]
        column = inner + len(op) + 1
        text = _fit(operand, needed, inner, column, tail if last else 0)
        lines.append(f"{' ' * inner}{op} {text}")
    return "\n".join(lines)


def _fit_loose(node: n.Expr, indent: int) -> str:
    return _fit(node, _LOOSE, indent, indent, 1)


def _fit_argument(node: n.Argument | n.Over, indent: int) -> str:
    if isinstance(node, n.Over):
        return "over " + _fit(node.dim, _LOOSE, indent, indent + 5, 1)
    head = f"{node.name.text} = " if node.name else ""
    return head + _fit(node.value, _LOOSE, indent, indent + len(head), 1)


def listed(
    head: str,
    parts: Iterable[object],
    write: Callable[..., str],
    close: str,
    indent: int,
    *,
    comma: bool = True,
) -> str:
    """A bracketed list, one part on each line; `write(part, indent)` gives the part."""
    inner = indent + STEP
    lines = [f"{' ' * inner}{write(part, inner)}" for part in parts]
    end = ",\n" if comma else "\n"
    return f"{head}\n" + ",\n".join(lines) + f"{end}{' ' * indent}{close}"


# --- selectors -----------------------------------------------------------------------------


def selector(node: n.Selector, *, column: int = 0, tail: int = 0) -> str:
    """A selector as text; where it is too long, broken after commas and before scopes."""
    pieces = list(_pieces(node))
    text = "".join(_joined(piece) for piece in pieces).strip()
    if column + len(text) + tail <= WIDTH:
        return text
    lines: list[str] = []
    for piece in pieces:
        joined = _joined(piece)
        if lines and column + len(lines[-1] + joined.rstrip()) <= WIDTH - 1:
            lines[-1] += joined
        else:
            lines.append(joined.lstrip())
    return ("\n" + " " * column).join(line.rstrip() for line in lines)


def _joined(piece: str) -> str:
    return piece + " " if piece.endswith(",") else piece


def _pieces(node: n.Selector) -> Iterable[str]:
    """The text in parts that may each begin a line."""
    options = node.options if isinstance(node, n.Either) else (node,)
    open_group = False
    for number, option in enumerate(options):
        last = number == len(options) - 1
        comma = "" if last else ","
        if isinstance(option, n.Scoped) and not open_group:
            reaches = isinstance(option.scopes[-1], n.Except)
            if last or not reaches:
                yield from _scoped(option, comma)
                continue
        open_group = True
        yield _base(option) + comma


def _scoped(node: n.Scoped, comma: str) -> Iterable[str]:
    bases = node.selector.options if isinstance(node.selector, n.Either) else (node.selector,)
    for base in bases[:-1]:
        yield _base(base) + ","
    yield _base(bases[-1])
    for number, scope in enumerate(node.scopes):
        yield f" {_scope(scope)}" + (comma if number == len(node.scopes) - 1 else "")


def _base(node: n.Selector) -> str:
    match node:
        case n.Role():
            return node.text
        case n.Glob():
            return f'"{node.pattern}"'
        case _:
            return f"({''.join(_joined(piece) for piece in _pieces(node)).strip()})"


def _scope(node: n.Scope) -> str:
    match node:
        case n.Side():
            return f"in {node.name}"
        case n.Layers():
            ranges = ", ".join(_range(one) for one in node.ranges)
            return f"in layers[{ranges}]" if ranges else "in layers"
        case n.Where():
            return f"where {_flat(node.condition, _LOOSE)}"
        case n.Except():
            inner = node.selector
            options = inner.options if isinstance(inner, n.Either) else (inner,)
            return "except " + ", ".join(_base(option) for option in options)


def _range(node: n.LayerRange) -> str:
    if node.first is not None and node.first == node.last:
        return _flat(node.first, _LOOSE)
    first = _flat(node.first, _LOOSE) if node.first is not None else ""
    last = _flat(node.last, _LOOSE) if node.last is not None else ""
    return f"{first}..{last}"
