"""What a spec is compared with: a Python file, another spec, or another library's method."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS, Evaluation
from peftlang.ir.types import Type
from peftlang.verifying.bench import Bench, Outcome, Values
from peftlang.verifying.subject import Subject

LIBRARIES: dict[str, str] = {"hf": "peftlang.interop.reference:reference"}
"""Prefix of a reference (``hf`` in ``hf:lora``) to ``"module:function"``; the function is given
what follows the colon and returns a `Reference`."""


@runtime_checkable
class Reference(Protocol):
    """What a spec is held to, at one site.

    Attributes:
        name: For messages.
        training: Whether it also mirrors training mode, drawing random numbers as the spec does.
    """

    name: str
    training: bool

    def __call__(self, bench: Bench, params: Values, values: Values) -> Outcome:
        """What the site should compute.

        Args:
            bench: The site: ``bench.placed.situation`` and ``.sizes``, ``bench.composed``.
            params: The method's tensors by name, attached to leaves whose gradients are compared.
            values: The names in scope (x, h, W, b, q, k, v, resid), attached likewise.

        Raises:
            PeftError: V8xx, it cannot be run or gives no usable answer.
        """
        ...


class Params(dict[str, Tensor]):
    """Tensors by name, as items or as attributes: ``params["A"]``, ``params.A``."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the method has no tensor `{name}`") from None


class Known:
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
class SiteFacts(Known):
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


def facts_of(bench: Bench) -> SiteFacts:
    """What a reference is told of a site.

    That is the site's own, whatever the spec makes of it: `x` is the site's input and `d_x` its
    size under any insertion form, and an adapter's hyper-parameters stand before those that its
    uses are given. So a reference is no party to a slip of the spec.
    """
    placed = bench.placed
    args: dict[str, Any] = {**placed.use.args, **placed.adapter.args}
    for hyper in placed.method.hypers:
        if hyper.kind == "fn":
            args[hyper.name] = activation(str(args[hyper.name]))
    made, own = placed.sizes, placed.situation.sizes
    at: Mapping[str, int] = {n: made[n] for n in ("place", "places") if n in made}
    tokens = bench.tokens
    return SiteFacts(
        placed.situation.role, placed.situation.use, {**made, **own, **at}, args, bench.mask,
        bench.scale, tokens.ids, tokens.causal(), tokens.grid(), placed.situation.training,
    )  # fmt: skip


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An elementwise function of the language as a function of a tensor."""
    entry = BUILTINS[name]

    def apply(value: Tensor) -> Tensor:
        call = Evaluation(
            t=torch, args=(value,), types=(Type(),), result=Type(), keywords={}, over=(),
            size=lambda dim: dim.evaluate({}),
        )  # fmt: skip
        found: Tensor = entry.meaning(call)
        return found

    return apply


def load_reference(ref: str | Path) -> Reference:
    """Read a reference.

    Args:
        ref: A Python file, a spec (a .peft file or a library name), or ``prefix:name``.

    Raises:
        PeftError: V801, it cannot be read; V802, the file has no such function; V810, there is
            no such reference.
    """
    text = str(ref)
    prefix, colon, name = text.partition(":")
    if text.endswith(".py"):
        from peftlang.verifying.files import PythonReference

        return PythonReference(Path(text))
    if colon and prefix.isidentifier() and "/" not in text and "\\" not in text:
        return _of_library(prefix, name)
    from peftlang.verifying.others import SpecReference

    return SpecReference(Subject(ref))


def _of_library(prefix: str, name: str) -> Reference:
    if prefix not in LIBRARIES:
        known = ", ".join(f"`{p}:`" for p in LIBRARIES) or "none in this version"
        raise PeftError(
            f"`{prefix}:{name}` is no reference: libraries that can be one are {known}",
            code="V810",
            help="give a Python file, a .peft file, or the name of a library spec",
        )
    module, _, function = LIBRARIES[prefix].partition(":")
    found: Reference = getattr(import_module(module), function)(name)
    return found
