"""Evaluating expressions against a tensor library: real tensors, or proxies of a graph."""

from collections.abc import Callable, Mapping
from typing import Any

from peftlang.ir.builtins import BUILTINS, Evaluation
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, DimValue, Expr, Hyper, Number, Ref, postorder


class Interpreter:
    """Evaluates expressions of one method at one site; shared nodes are computed once.

    Args:
        t: The tensor library (``torch``).
        sizes: Concrete sizes of the site's dimensions and of integer hyper-parameters.
        lookup: Gives the value of a tensor by name, laid out ``[*implicit, *dims]``.
        training: Whether dropout and sampling are on.
        half: Whether the values are float16 or bfloat16. What an operation that needs single
            precision gives then stays in float32, and so does all that is made of it.
        site: What the builtins that look at the attention product or at token positions ask.
    """

    def __init__(
        self, t: Any, sizes: Mapping[str, int], lookup: Callable[[str], Any], *,
        training: bool = False, half: bool = False, site: Any = None,
    ) -> None:  # fmt: skip
        self._t, self._sizes, self._lookup = t, sizes, lookup
        self._training, self._half, self._site = training, half, site
        self._done: dict[int, Any] = {}
        self._kept: list[Expr] = []
        self._wide: set[int] = set()

    def __call__(self, root: Expr) -> Any:
        """The value of ``root``: a tensor, or a Python number.

        Raises:
            Indivisible: a dimension does not divide at this site.
        """
        for node in postorder(root, done=self._done):
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
        entry = BUILTINS[node.op]
        return entry.meaning(
            Evaluation(
                t=self._t,
                args=self._operands(node),
                types=tuple(arg.type for arg in node.args),
                result=node.type,
                keywords={key: self._done[id(value)] for key, value in node.keywords},
                over=node.over,
                size=self.size,
                training=self._training,
                half=self._half,
                site=self._site,
            )
        )

    def _operands(self, node: Apply) -> tuple[Any, ...]:
        """The operands, in float32 where one of them already is and the values are half."""
        values = tuple(self._done[id(arg)] for arg in node.args)
        meets_wide = any(id(arg) in self._wide for arg in node.args)
        if self._half and (meets_wide or BUILTINS[node.op].single_precision):
            self._wide.add(id(node))
        if not (self._half and meets_wide):
            return values
        return tuple(
            value.float() if arg.type.kind == "float" and hasattr(value, "float") else value
            for arg, value in zip(node.args, values, strict=True)
        )
