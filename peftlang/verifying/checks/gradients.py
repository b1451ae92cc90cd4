"""Every tensor that trains has a gradient, somewhere."""

import torch

from peftlang.ir.expr import Apply, Expr, Ref, children, names, postorder
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


def learned_by_output(method: Method) -> set[str]:
    """Names that the output depends on by a path that gradients take."""

    def below(node: Expr) -> tuple[Expr, ...]:
        stopped = isinstance(node, Apply) and node.op == "stop_gradient"
        return () if stopped else children(node)

    nodes = postorder(*(c.value for c in method.compositions), below=below)
    return {node.name for node in nodes if isinstance(node, Ref)}


def handed_on(method: Method) -> set[str]:
    """Carried states that a later site's output depends on, at once or through other states."""
    carried = {carry.name for carry in method.carries}
    read = {c.target: names(c.value) & carried for c in method.compositions}
    found: set[str] = set().union(*(read[target] for target in read if target not in carried))
    while not found >= (more := found.union(*(read.get(name, set()) for name in found))):
        found = more
    return found


def only_of_states(method: Method) -> set[str]:
    """Names that carried states depend on, and no change of the site itself."""
    carried = {carry.name for carry in method.carries}
    values = {c.target: names(c.value) for c in method.compositions}
    of_states = set().union(*(values[target] for target in values if target in carried))
    return of_states.difference(*(values[target] for target in values if target not in carried))
