"""What a method adds to a model's work at one site, read off its expressions."""

from collections.abc import Mapping
from dataclasses import dataclass

from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Dim, UnboundDim, product
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.method import Composition, Method
from peftlang.ir.products import Arranger, Product, fast_cost, operands, product_of, vectors
from peftlang.ir.types import Level


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations and memory that a method adds to a forward pass.

    Attributes:
        token_flops: Operations for each token.
        pass_flops: Operations done once, however many tokens: those on weights alone.
        activations: Numbers that exist for each token while gradients are recorded, none of
            them freed early or fused away: an upper bound.
    """

    token_flops: int = 0
    pass_flops: int = 0
    activations: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.token_flops + other.token_flops,
            self.pass_flops + other.pass_flops,
            self.activations + other.activations,
        )


def cost(method: Method, sizes: Mapping[str, int]) -> Cost:
    """The cost of one method at one site, evaluated as the interpreter does.

    Products are in the order that the interpreter chooses, and structured matrices are not
    written out where they only multiply.

    Args:
        method: The method.
        sizes: Concrete sizes of the site's dimensions and of integer hyper-parameters.

    Raises:
        Indivisible: a dimension does not divide at this site.
    """
    total = Cost()
    arranged = Arranger(lambda dim: dim.evaluate(sizes))
    roots = [arranged(composition.value) for composition in method.compositions]
    for node in postorder(*roots, below=operands):
        if isinstance(node, Apply):
            total += _of_call(node, sizes)
    for composition in method.compositions:
        total += _of_longer_attention(composition, sizes)
    return total


def _of_call(node: Apply, sizes: Mapping[str, int]) -> Cost:
    product = product_of(node)
    if product is not None:
        return _of_product(product, node, sizes)
    # An activation that is a hyper-parameter is elementwise, whichever is chosen.
    work = _size(node.type.size if node.is_hyper else BUILTINS[node.op].cost(node), sizes)
    if node.type.level is Level.CONST:
        return Cost(pass_flops=work if node.type.dims else 0)
    if node.type.level is Level.EXAMPLE:
        return Cost()
    return Cost(token_flops=work, activations=_size(node.type.size, sizes))


def _of_product(product: Product, node: Apply, sizes: Mapping[str, int]) -> Cost:
    once, each = fast_cost(product.matrix, lambda dim: _size(dim, sizes))
    work = each * vectors(product, lambda dim: _size(dim, sizes))
    if node.type.level is Level.CONST:
        return Cost(pass_flops=once + work)
    if node.type.level is Level.EXAMPLE:
        return Cost(pass_flops=once)
    return Cost(work, once, _size(node.type.size, sizes))


def _of_longer_attention(composition: Composition, sizes: Mapping[str, int]) -> Cost:
    """Each token's query meets each added key, and mixes each added value."""
    if composition.target not in ("k", "v"):
        return Cost()
    added = composition.value.type.dims[0] - Dim.of("keys")
    heads = product((Dim.of("heads"), Dim.of("d_head")))
    return Cost(token_flops=_size(2 * added * heads, sizes))


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    try:
        return dim.evaluate(sizes)
    except UnboundDim:
        # The lengths of the sequences are known when the model runs, not here.
        return 0
