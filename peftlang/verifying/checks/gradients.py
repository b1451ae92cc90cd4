"""Every tensor that trains has a gradient, somewhere."""

import torch

from peftlang.ir.expr import Apply, Expr, Ref, children, postorder
from peftlang.ir.method import Method
from peftlang.verifying.comparing import as_spec, differentiated
from peftlang.verifying.one_site import one_site
from peftlang.verifying.search import UnfitSite, Violation, of_the_spec
from peftlang.verifying.site_case import PlacedMethod


class GradientsReach:
    """Every tensor that trains has a finite gradient, and at some site one that is not zero.

    A gate that is shut, or one key alone, leaves a tensor without a gradient at some sites. What
    only a carried state reads has its gradient from the sites to which the state is handed.

    Attributes:
        last: The site that was tried last.
    """

    def __init__(self) -> None:
        self._alive: set[str] = set()
        self._dead: dict[str, None] = {}
        self.last: PlacedMethod | None = None

    def __call__(self, placed: PlacedMethod) -> float:
        """Look at one site; see `contracts.Check`."""
        site = of_the_spec(lambda: one_site(placed))
        if not all(value.numel() for value in site.tensors.values()):
            raise UnfitSite("a tensor has no elements")
        states = handed_on(placed.method)
        found = of_the_spec(lambda: differentiated(site, as_spec(site), states))
        self.last = placed
        for name in site.trained:
            gradient = found.gradients[name]
            if not bool(torch.isfinite(gradient).all()):
                raise Violation(note=f"the gradient of `{name}` is not finite")
            if bool(gradient.abs().max() > 0):
                self._alive.add(name)
            elif name in learned_by_output(placed.method) or not placed.method.penalties:
                self._dead.setdefault(name)
        return 0.0

    @property
    def dead(self) -> list[str]:
        """Tensors whose gradient was zero at every site so far."""
        return [name for name in self._dead if name not in self._alive]


def learned_by_output(method: Method) -> frozenset[str]:
    """Names that the output depends on by a path that gradients take."""
    return _learned(*(c.value for c in method.compositions))


def handed_on(method: Method) -> frozenset[str]:
    """Carried states by which gradients come back from later sites, at once or through others."""
    carried = {carry.name for carry in method.carries}
    learned = {c.target: _learned(c.value) & carried for c in method.compositions}
    found = frozenset[str]().union(*(learned[name] for name in learned if name not in carried))
    while True:
        more = found.union(*(learned.get(name, frozenset()) for name in found))
        if more == found:
            return found
        found = more


def _learned(*values: Expr) -> frozenset[str]:
    """Names that expressions depend on, except behind a `stop_gradient`."""

    def below(node: Expr) -> tuple[Expr, ...]:
        stopped = isinstance(node, Apply) and node.op == "stop_gradient"
        return () if stopped else children(node)

    return frozenset(n.name for n in postorder(*values, below=below) if isinstance(n, Ref))
