"""Products of matrices: in which order, and without writing structured matrices out.

``M1 @ M2 @ x`` is cheaper from the right where ``x`` is a vector, and a structured matrix that only
multiplies is never needed as a table of numbers. Both follow from the table of builtins; neither
changes what an expression means.
"""

from dataclasses import dataclass
from typing import TypeGuard

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.builtins.table import Size
from peftlang.ir.dims import Indivisible, UnboundDim
from peftlang.ir.expr import Apply, Expr, Rewriter, children, postorder
from peftlang.ir.types import Level, contract

TOKENS = 256
"""How many tokens a product is taken to be for, when its order is chosen."""

LONGEST = 16
"""Longest chain of products that is put in order; longer ones stay as they are written."""


@dataclass(frozen=True)
class Product:
    """A product with a structured matrix.

    Attributes:
        matrix: The call that makes the matrix.
        transposed: Whether it is the transpose of the matrix that multiplies vectors of ``other``.
        other: The other operand; its first dimension is summed where the matrix is on the left,
            else its last.
        on_left: Whether the matrix is the left operand.
    """

    matrix: Apply
    transposed: bool
    other: Expr
    on_left: bool


def product_of(node: Expr) -> Product | None:
    """``node`` as a product with a structured matrix, or None when it is not one."""
    if not isinstance(node, Apply) or node.op != "@" or node.is_hyper:
        return None
    left, right = node.args
    if contract(left.type, right.type)[1]:
        return None
    matrix, transposed = structured(left)
    if matrix is not None and _multiplies(matrix, right):
        return Product(matrix, transposed, right, on_left=True)
    matrix, transposed = structured(right)
    if matrix is not None and _multiplies(matrix, left):
        return Product(matrix, not transposed, left, on_left=False)
    return None


def structured(expr: Expr) -> tuple[Apply | None, bool]:
    """The call below any transposes, if it makes a structured matrix; whether it is transposed."""
    transposed = False
    while isinstance(expr, Apply) and expr.op == "transpose":
        expr, transposed = expr.args[0], not transposed
    if not isinstance(expr, Apply) or expr.is_hyper or not _is_matrix(expr):
        return None, False
    fast = BUILTINS[expr.op].fast
    if fast is None or (fast.through and structured(expr.args[0])[0] is None):
        return None, False
    return expr, transposed


def _multiplies(matrix: Apply, other: Expr) -> bool:
    """Fast forms of real matrices are of real vectors."""
    return matrix.type.kind == "complex" or other.type.kind != "complex"


def _layers(matrix: Apply) -> list[Apply]:
    """The matrix, and those through whose products its own goes, the innermost last."""
    found = [matrix]
    fast = BUILTINS[matrix.op].fast
    while fast is not None and fast.through:
        inner = structured(found[-1].args[0])[0]
        if inner is None:
            break
        found.append(inner)
        fast = BUILTINS[inner.op].fast
    return found


def innermost(matrix: Apply) -> Apply:
    """The call whose operands have to be known before a structured matrix multiplies."""
    return _layers(matrix)[-1]


def single_precision(call: Apply) -> bool:
    """Whether a call, or what it goes through, is computed in float32 at least."""
    return any(BUILTINS[layer.op].single_precision for layer in _layers(call))


def fast_cost(matrix: Apply, size: Size) -> tuple[int, int]:
    """Operations of a structured matrix that multiplies: once, and for each vector."""
    fast = BUILTINS[matrix.op].fast
    assert fast is not None
    once, each = fast.cost(matrix, size)
    if fast.through:
        inner = structured(matrix.args[0])[0]
        assert inner is not None
        more = fast_cost(inner, size)
        parts = 2 if matrix.type.kind == "complex" and inner.type.kind != "complex" else 1
        once, each = once + more[0], each + parts * more[1]
    return once, each


def _is_matrix(expr: Expr) -> bool:
    return len(expr.type.dims) == 2 and expr.type.level is Level.CONST


def operands(node: Expr) -> tuple[Expr, ...]:
    """What has to be known before ``node``: of a structured matrix that multiplies, its operands.

    The order is that of the product's own operands, so that what is random draws in the same
    order.
    """
    found = product_of(node)
    if found is None:
        return children(node)
    own = children(innermost(found.matrix))
    return (*own, found.other) if found.on_left else (found.other, *own)


class Arranger:
    """Puts every chain of products into its cheapest order; shared nodes stay shared.

    Args:
        size: The concrete size of a dimension at this site.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._rewrite = Rewriter(self._rule)

    def __call__(self, root: Expr) -> Expr:
        return self._rewrite(root)

    def _rule(self, node: Expr) -> Expr:
        if not _is_plain_product(node):
            return node
        chain = _chain(node)
        # Two factors have one order, unless a number between hides that one is structured.
        if chain is None or (len(chain.factors) < 3 and not chain.scalars):
            return node
        if any(len(factor.type.dims) == 1 for factor in chain.factors[1:-1]):
            return node  # a vector between matrices stands for the product that ends with it
        try:
            found = self._cheapest(chain)
            cheaper = self._work(found, chain) < self._work(node, chain)
        except (UnboundDim, Indivisible):
            return node
        return found if cheaper else node

    def _cheapest(self, chain: "_Chain") -> Expr:
        """The product in the order that costs least: the well-known table over all spans."""
        best: dict[tuple[int, int], tuple[int, Expr]] = {
            (i, i): (0, factor) for i, factor in enumerate(chain.factors)
        }
        count = len(chain.factors)
        for length in range(1, count):
            for start in range(count - length):
                end = start + length
                options = (
                    self._joined(best[start, cut], best[cut + 1, end]) for cut in range(start, end)
                )
                best[start, end] = min(options, key=lambda option: option[0])
        found = best[0, count - 1][1]
        for op, scalar in chain.scalars:
            found = Apply(op, (found, scalar), found.type)
        return found

    def _joined(self, left: tuple[int, Expr], right: tuple[int, Expr]) -> tuple[int, Expr]:
        pair = (left[1], right[1])
        node = Apply("@", pair, contract(pair[0].type, pair[1].type)[0])
        work = left[0] + right[0] + work_of(node, self._size)
        product = product_of(node)
        other = structured(product.other)[0] if product else None
        return work + (work_of(other, self._size) if other else 0), node

    def _work(self, root: Expr, chain: "_Chain") -> int:
        """The work of a product, that of making its factors left out."""
        given = {id(leaf) for factor in chain.factors for leaf in _leaves(factor)}
        nodes = postorder(root, done=given, below=operands)
        return sum(work_of(node, self._size) for node in nodes if isinstance(node, Apply))


def work_of(node: Apply, size: Size) -> int:
    """Floating-point operations of one node, where tokens matter for ``TOKENS`` of them."""
    times = TOKENS if node.type.level is Level.TOKEN else 1
    product = product_of(node)
    if product is None:
        return size(BUILTINS[node.op].cost(node)) * times
    once, each = fast_cost(product.matrix, size)
    return once + each * times * vectors(product, size)


def vectors(product: Product, size: Size) -> int:
    """How many vectors a structured matrix multiplies, for one token where they differ by token."""
    dims = list(product.other.type.dims)
    del dims[0 if product.on_left else -1]
    count = 1
    for dim in dims:
        count *= size(dim)
    return count


def _leaves(factor: Expr) -> tuple[Expr, ...]:
    """What a chain finds ready: a factor, or the operands of a structured one."""
    matrix = structured(factor)[0]
    if matrix is not None:
        return children(innermost(matrix))
    while isinstance(factor, Apply) and factor.op == "transpose":
        factor = factor.args[0]
    return (factor,)


@dataclass(frozen=True)
class _Chain:
    """The factors of a product, and the numbers that it is multiplied with or divided by."""

    factors: tuple[Expr, ...]
    scalars: tuple[tuple[str, Expr], ...]


def _is_plain_product(node: Expr) -> TypeGuard[Apply]:
    """A product of matrices, or of a matrix and a vector, with nothing batched."""
    if not isinstance(node, Apply) or node.op != "@" or node.is_hyper:
        return False
    left, right = (operand.type for operand in node.args)
    ranks = {len(left.dims), len(right.dims)}
    varying = left.level is not Level.CONST and right.level is not Level.CONST
    return ranks <= {1, 2} and not varying and not contract(left, right)[1]


def _chain(root: Apply) -> _Chain | None:
    """The chain below a product; None where it is longer than is worth ordering."""
    factors: list[Expr] = []
    scalars: list[tuple[str, Expr]] = []
    pending: list[tuple[Expr, bool]] = [(root, False)]
    while pending:
        node, transposed = pending.pop()
        inner, scaled = _unscaled(node)
        if inner.type.dims == node.type.dims and (node is root or _is_part(inner, node)):
            scalars += scaled
            node = inner
        if isinstance(node, Apply) and node.op == "transpose" and _is_matrix(node):
            pending.append((node.args[0], not transposed))
        elif _is_plain_product(node) and (node is root or _continues(node, root)):
            left, right = node.args
            pair = [(left, transposed), (right, transposed)]
            pending += pair if transposed else pair[::-1]
        else:
            factors.append(_transposed(node) if transposed else node)
        if len(factors) + len(pending) > LONGEST:
            return None
    return _Chain(tuple(factors), tuple(scalars))


def _continues(node: Apply, root: Apply) -> bool:
    """Whether a product below is of the same chain: a matrix, or the vector at its end."""
    return _is_matrix(node) or node.type.level is root.type.level


def _is_part(inner: Expr, node: Expr) -> bool:
    """Whether a number is worth taking out: what it multiplies is structured, or a product."""
    return inner is not node and (_is_plain_product(inner) or structured(inner)[0] is not None)


def _unscaled(node: Expr) -> tuple[Expr, list[tuple[str, Expr]]]:
    """``node`` without the numbers that it is multiplied with or divided by."""
    scalars: list[tuple[str, Expr]] = []
    while isinstance(node, Apply) and node.op in ("*", "/") and not node.is_hyper:
        left, right = node.args
        if _is_number(right):
            scalars.append((node.op, right))
            node = left
        elif node.op == "*" and _is_number(left):
            scalars.append(("*", left))
            node = right
        else:
            break
    return node, scalars


def _is_number(expr: Expr) -> bool:
    return not expr.type.dims and expr.type.level is Level.CONST


def _transposed(node: Expr) -> Expr:
    rows, columns = node.type.dims
    return Apply("transpose", (node,), node.type.with_dims(columns, rows))
