"""A method of the standard library at one projection, with tensors and no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from peftlang.ir.method import Method, fixed
from peftlang.lower import build, load
from peftlang.verifying.method_at_site import method_at_site
from tests.methods.harness import spec

D_X, D_H = 24, 16


@dataclass(frozen=True)
class Place:
    """What a reference is told of its site."""

    args: Mapping[str, Any]
    role: str = "attn.q"
    layer: int = 1
    sizes: Mapping[str, int] = field(default_factory=dict)
    training: bool = False


@dataclass
class Projection:
    """One projection `[d_h, d_x]` with random weights, tokens, and tensors of the method.

    Attributes:
        method: With its arguments fixed.
        place: Sizes and arguments.
        params: The method's tensors, float64, each a leaf.
        values: ``x``, ``h``, ``W`` and ``b``.
    """

    method: Method
    place: Place
    params: dict[str, Tensor]
    values: dict[str, Tensor]

    def ours(self) -> Tensor:
        """The site's output under the method's compositions."""

        def output(changed: dict[str, Tensor]) -> Tensor:
            new = self.values | changed
            return linear(new["x"], new["W"], new["b"])

        sizes = self.place.sizes
        return method_at_site(self.method, sizes, self.values, self.params, output, site=None)["h"]

    def theirs(self, name: str) -> Tensor:
        """The same by the reference in ``tests/references``."""
        reference = import_module(f"tests.references.{name}").reference
        wanted = {n: v for n, v in self.values.items() if n in signature(reference).parameters}
        found = reference(self.place, self.params, **wanted)
        assert isinstance(found, Tensor)
        return found


def one_site(name: str, d_x: int = D_X, d_h: int = D_H, **given: Any) -> Projection:
    """The spec ``name`` with these arguments; its tensors are drawn from a normal."""
    adapter = build(load(spec(name)), args=given)
    (use,) = adapter.uses
    integers = {h.name: int(use.args[h.name]) for h in use.method.hypers if h.kind == "int"}
    sizes = {"d_x": d_x, "d_h": d_h, "layers": 2, "layer": 1, **integers}
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    method = fixed(use.method, use.args)
    params = {}
    for tensor in method.tensors:
        shape = tuple(dim.evaluate(sizes) for dim in tensor.dims)
        if tensor.kind == "int":
            rows, columns = (int(a.dim.evaluate(sizes)) for a in tensor.init.args)  # type: ignore[union-attr]
            flat = torch.randperm(rows * columns, generator=generator)[: shape[0]]
            params[tensor.name] = torch.stack([flat // columns, flat % columns], dim=1)
        else:
            params[tensor.name] = draw(*shape).requires_grad_(tensor.trainable)
    values = {"x": draw(2, 3, d_x), "W": draw(d_h, d_x), "b": draw(d_h)}
    values["h"] = linear(values["x"], values["W"], values["b"])
    place = Place(args=use.args, sizes=sizes)
    return Projection(method, place, params, values)
