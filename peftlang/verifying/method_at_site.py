"""What a method does at a site, on real tensors: all that the verifier itself says of it.

References say what a method should do; this is what it is held to be.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Method

Values = dict[str, Tensor]


def method_at_site(
    method: Method,
    sizes: Mapping[str, int],
    values: Values,
    own: Values,
    output: Callable[[Values], Tensor],
    site: Any,
    *,
    training: bool = False,
) -> Values:
    """The new value of each name that the method writes, and of ``h``, which follows from them.

    Every composition reads the values as the method finds them. Only ``h`` is, in compositions of
    ``h`` itself and of carried states, what the site makes of the operands once they have changed.

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
    dtype = values["h"].dtype
    after = {"h"} | {carry.name for carry in method.carries}
    evaluate = expressions_at_site(method, sizes, values, own, site, training=training)
    operands = [c for c in method.compositions if c.target not in after]
    changed: Values = {c.target: evaluate(c.value).to(dtype) for c in operands}
    h = values["h"]
    if operands:
        h = output(changed)
        evaluate = expressions_at_site(
            method, sizes, {**values, "h": h}, own, site, training=training
        )
    late = [c for c in method.compositions if c.target in after]
    return {"h": h, **changed, **{c.target: evaluate(c.value).to(dtype) for c in late}}


def expressions_at_site(
    method: Method,
    sizes: Mapping[str, int],
    values: Values,
    own: Values,
    site: Any,
    *,
    training: bool = False,
) -> Interpreter:
    """Evaluates expressions of a method as its compositions read them; see `method_at_site`."""
    sequential = method.insertion == "sequential"

    def lookup(name: str) -> Tensor:
        if name in own:
            return own[name]
        return values["h" if name == "x" and sequential else name]

    half = values["h"].dtype in (torch.bfloat16, torch.float16)
    return Interpreter(torch, sizes, lookup, training=training, half=half, site=site)
