"""What a spec is held to at one site, and what a reference is told of the site."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from peftlang.ir.builtins import BUILTINS, Evaluation
from peftlang.ir.method import Method
from peftlang.ir.types import Type
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome


@runtime_checkable
class Reference(Protocol):
    """What a spec is held to, at one site.

    Attributes:
        name: For messages.
        training: Whether it also mirrors training mode, drawing random numbers as the spec does.
    """

    name: str
    training: bool

    def __call__(self, site: OneSite, params: Values, values: Values) -> Outcome:
        """What the site should compute.

        Args:
            site: The site: ``site.placed`` says where it is, ``site.composed`` what comes of
                new operands.
            params: The method's tensors by name, attached to leaves whose gradients are compared.
            values: The names in scope (x, h, W, b, q, k, v, resid), attached likewise.

        Raises:
            PeftError: V8xx, it cannot be run or gives no usable answer.
            UnfitSite: it has nothing to say of sizes like these.
        """
        ...


class Params(dict[str, Tensor]):
    """Tensors by name, as items or as attributes: ``params["A"]``, ``params.A``."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the method has no tensor `{name}`") from None


class KnownSite:
    """A site whose hyper-parameters and sizes are attributes too: ``site.r``, ``site.d_x``."""

    args: Mapping[str, Any]
    sizes: Mapping[str, int]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "args" not in self.__dict__:
            raise AttributeError(name)
        for known in (self.args, self.sizes):
            if name in known:
                return known[name]
        raise AttributeError(f"the site has no `{name}`")


@dataclass(frozen=True)
class SiteFacts(KnownSite):
    """The site as a reference sees it; sizes and hyper-parameters are attributes as well.

    Attributes:
        role: ``attn.q``, ``ffn``, …
        use: Label of the adapter's use.
        sizes: d_x, d_h, heads, kv_heads, d_head, layers, layer, batch, tokens, keys.
        args: The method's hyper-parameters; one of the type ``fn`` is a function of a tensor.
        mask: At an attention product, True where a query sees a key, ``[tokens, keys]``.
        scale: At an attention product, what the site multiplies its scores by.
        ids: Each token's id, ``[batch, tokens]``.
        causal: Whether no token sees a later one.
        grid: Tokens before an image's patches, rows and columns of these, and tokens after them.
        training: Whether dropout is on.
    """

    role: str
    use: str
    sizes: Mapping[str, int]
    args: Mapping[str, Any]
    mask: Tensor
    scale: float
    ids: Tensor
    causal: bool
    grid: tuple[int, int, int, int]
    training: bool = False


def facts_of(site: OneSite) -> SiteFacts:
    """What a reference is told of a site.

    That is the site's own, whatever the spec makes of it: `x` is the site's input and `d_x` its
    size under any insertion form, and an adapter's hyper-parameters stand before those that its
    uses are given. So a reference is no party to a slip of the spec.
    """
    placed, tokens = site.placed, site.tokens
    made, own = placed.sizes, placed.case.sizes
    alternative = {name: size for name, size in made.items() if name in ("place", "places")}
    args = {**placed.use.args, **placed.adapter.args}
    return SiteFacts(
        role=placed.case.role,
        use=placed.case.use,
        sizes={**made, **own, **alternative},
        args=with_functions(placed.method, args),
        mask=site.mask,
        scale=site.scale,
        ids=tokens.ids,
        causal=tokens.causal(),
        grid=tokens.grid(),
        training=placed.case.training,
    )


def with_functions(method: Method, args: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters, those of the type ``fn`` as functions of a tensor."""
    functions = [hyper.name for hyper in method.hypers if hyper.kind == "fn"]
    return {**args, **{name: activation(str(args[name])) for name in functions}}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An elementwise function of the language as a function of a tensor."""
    entry = BUILTINS[name]

    def apply(value: Tensor) -> Tensor:
        call = Evaluation(
            t=torch,
            args=(value,),
            types=(Type(),),
            result=Type(),
            keywords={},
            over=(),
            size=lambda dim: dim.evaluate({}),
        )
        found: Tensor = entry.meaning(call)
        return found

    return apply
