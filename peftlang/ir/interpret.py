"""Evaluating expressions against a tensor library: real tensors, or proxies of a graph."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from peftlang.ir.builtins import BUILTINS, Evaluation
from peftlang.ir.builtins.site import AtSite
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, DimValue, Expr, Hyper, Number, Ref, postorder
from peftlang.ir.products import (
    Arranger,
    Product,
    innermost,
    operands,
    product_of,
    single_precision,
    structured,
)


class Interpreter:
    """Evaluates expressions of one method at one site; shared nodes are computed once.

    Args:
        t: The tensor library (``torch``).
        sizes: Concrete sizes of the site's dimensions and of integer hyper-parameters.
        lookup: Gives the value of a tensor by name, laid out ``[*implicit, *dims]``.
        training: Whether dropout and sampling are on.
        precise: Brings a tensor of half precision to single precision; None where there are none.
            What an operation that needs single precision gives stays so, and so does all that is
            made of it.
        site: What the builtins that look at the attention product or at token positions ask.
        real: Which tokens of a tapped sequence are no padding, by the name of its length.
    """

    def __init__(
        self,
        t: Any,
        sizes: Mapping[str, int],
        lookup: Callable[[str], Any],
        *,
        training: bool = False,
        precise: Callable[[Any], Any] | None = None,
        site: AtSite | None = None,
        real: Callable[[Dim], Any] = lambda _: None,
    ) -> None:
        self._t, self._sizes, self._lookup = t, sizes, lookup
        self._training, self._precise = training, precise
        self._site = AtSite() if site is None else site
        self._real = real
        self._arranged = Arranger(self.size)
        self._memo: dict[Any, Any] = {}
        self._done: dict[int, Any] = {}
        self._kept: list[Expr] = []
        self._wide: set[int] = set()

    def __call__(self, root: Expr) -> Any:
        """The value of ``root``: a tensor, or a Python number.

        Raises:
            Indivisible: a dimension does not divide at this site.
        """
        root = self._arranged(root)
        for node in postorder(root, done=self._done, below=operands):
            self._kept.append(node)
            self._done[id(node)] = self._evaluate(node)
        return self._done[id(root)]

    def size(self, dim: Dim) -> int:
        return dim.evaluate(self._sizes)

    def _evaluate(self, node: Expr) -> Any:
        if isinstance(node, Number):
            return node.value
        if isinstance(node, DimValue):
            return self.size(node.dim)
        if isinstance(node, Hyper):
            raise LookupError(f"hyper-parameter `{node.name}` has no value")
        if isinstance(node, Ref):
            return self._lookup(node.name)
        return self._apply(node)

    def _apply(self, node: Apply) -> Any:
        product = product_of(node)
        if product is not None:
            return self._multiply(node, product)
        return BUILTINS[node.op].meaning(self._call(node, self._operands(node, node)))

    def _call(self, node: Apply, args: tuple[Any, ...]) -> Evaluation:
        return Evaluation(
            t=self._t,
            args=args,
            types=tuple(arg.type for arg in node.args),
            result=node.type,
            keywords={key: self._done[id(value)] for key, value in node.keywords},
            over=node.over,
            size=self.size,
            training=self._training,
            precisely=self._precise,
            site=self._site,
            memo=self._memo,
            real=self._real,
        )

    def _operands(self, node: Apply, call: Apply, *more: Expr) -> tuple[Any, ...]:
        """The operands of ``call``, which makes ``node``, and ``more``.

        They are in single precision where one of them already is.
        """
        exprs = (*innermost(call).args, *more) if more else call.args
        values = tuple(self._done[id(expr)] for expr in exprs)
        meets_wide = any(id(expr) in self._wide for expr in exprs)
        if meets_wide or single_precision(call):
            self._wide.add(id(node))
        precise = self._precise
        if precise is None or not meets_wide:
            return values
        return tuple(
            precise(value) if expr.type.kind == "float" and hasattr(value, "float") else value
            for expr, value in zip(exprs, values, strict=True)
        )

    def _multiply(self, node: Apply, product: Product) -> Any:
        """A product with a structured matrix, which is never written out."""
        *args, given = self._operands(node, product.matrix, product.other)
        axis = -len(product.other.type.dims) if product.on_left else -1
        vectors = given if axis == -1 else given.movedim(axis, -1)
        made = self._times(product.matrix, tuple(args), vectors, product.transposed)
        return made if axis == -1 else made.movedim(-1, axis)

    def _times(self, matrix: Apply, args: tuple[Any, ...], vectors: Any, transposed: bool) -> Any:
        """A structured matrix, or its transpose, times vectors; ``args`` are the innermost's."""
        fast = BUILTINS[matrix.op].fast
        assert fast is not None
        if fast.through:
            inner, turned = structured(matrix.args[0])
            assert inner is not None
            times = partial(self._times, inner, args)
            args = (lambda given, transposed: times(given, transposed != turned),)
        return fast.apply(self._call(matrix, args), vectors, transposed)
