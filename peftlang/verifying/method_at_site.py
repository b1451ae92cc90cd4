"""What a method does at one site, on real tensors: what compiled models do, without a model.

References say what a method should do; this is what it is held to be.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from peftlang.emit import casts
from peftlang.emit.applications import Acts
from peftlang.emit.evaluate import Operands, change_operands, change_results, interpreter
from peftlang.ir.builtins.site import AtSite
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition, Method

Values = dict[str, Tensor]


class _AtSite(Acts):
    def __init__(self, method: Method, sizes: Mapping[str, int]) -> None:
        self.method, self._sizes = method, sizes

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes


def method_at_site(
    method: Method,
    sizes: Mapping[str, int],
    values: Values,
    own: Values,
    output: Callable[[Values], Tensor],
    site: AtSite,
    *,
    training: bool = False,
) -> Values:
    """The new value of each name that the method writes, and of ``h``, which follows from them.

    Args:
        method: The method, its arguments fixed.
        sizes: Size of every dimension, integer hyper-parameters included.
        values: What the site has: ``h`` and others of x, W, b, q, k, v, resid.
        own: The method's tensors, inputs, taps and carried states. One that is called like a
            value of the site stands in its place.
        output: What the site makes of operands that changed, given these by name.
        site: What builtins ask.
        training: Whether dropout and sampling are on.
    """
    acts, carried = _AtSite(method, sizes), Values()

    def interpret(acts: Acts, found: Mapping[str, Tensor]) -> Interpreter:
        return _interpreter(acts, found, own, site, training=training)

    def settle(_acts: Acts, _clause: Composition, value: Tensor, _old: Tensor) -> Tensor:
        return value.to(values["h"].dtype)

    def hand_on(_acts: Acts, _made: Interpreter, clause: Composition, value: Tensor) -> None:
        carried[clause.target] = value

    operands = Operands({name: value for name, value in values.items() if name != "h"})
    found = change_operands([(acts, None)], operands, interpret, settle)
    changed = {c.target: operands.values[c.target] for c in acts.operands}
    h = output(changed) if changed else values["h"]
    h = change_results(found, h, interpret, settle, hand_on)
    return {"h": h, **changed, **carried}


def expressions_at_site(
    method: Method,
    sizes: Mapping[str, int],
    values: Values,
    own: Values,
    site: AtSite,
    *,
    training: bool = False,
) -> Interpreter:
    """Evaluates expressions of a method as its compositions read them; see `method_at_site`."""
    return _interpreter(_AtSite(method, sizes), values, own, site, training=training)


def _interpreter(
    acts: Acts, values: Mapping[str, Tensor], own: Values, site: AtSite, *, training: bool
) -> Interpreter:
    def tensor(_acts: Acts, name: str) -> Tensor | None:
        return own.get(name)

    return interpreter(acts, values, tensor, training=training, precise=casts.precise, site=site)
