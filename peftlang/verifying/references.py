"""What a spec is compared with: a Python file, another spec, or another library's method."""

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS, Evaluation
from peftlang.ir.expr import Scalar
from peftlang.ir.positions import POSITIONS
from peftlang.ir.types import Type
from peftlang.verifying.bench import Bench, Outcome, Values
from peftlang.verifying.subject import Subject

LIBRARIES: dict[str, str] = {"hf": "peftlang.interop.reference:reference"}
"""Prefix of a reference (``hf`` in ``hf:lora``) to ``"module:function"``; the function is given
what follows the colon and returns a `Reference`."""

TARGETS = frozenset({"h", "x", "W", "b", "q", "k", "v"})


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


@dataclass(frozen=True)
class SiteFacts:
    """The site as a reference sees it; sizes and hyper-parameters are attributes as well.

    Attributes:
        role: ``attn.q``, ``ffn``, …
        sizes: d_x, d_h, heads, kv_heads, d_head, layers, layer, batch, tokens, keys.
        args: The method's hyper-parameters; one of the type ``fn`` is a function of a tensor.
        mask: At an attention product, True where a query sees a key, ``[tokens, keys]``.
        scale: At an attention product, what the site multiplies its scores by.
        ids: Each token's id, ``[batch, tokens]``.
        causal: Whether no token sees a later one.
        training: Whether dropout is on.
    """

    role: str
    sizes: Mapping[str, int]
    args: Mapping[str, Any]
    mask: Tensor
    scale: float
    ids: Tensor
    causal: bool
    training: bool = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "args" not in self.__dict__:
            raise AttributeError(name)
        for known in (self.args, self.sizes):
            if name in known:
                return known[name]
        raise AttributeError(f"the site has no `{name}`")


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
    own = placed.situation.sizes
    tokens = bench.tokens
    return SiteFacts(
        placed.situation.role, {**placed.sizes, **own}, args, bench.mask, bench.scale, tokens.ids,
        tokens.causal(), placed.situation.training,
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


class PythonReference:
    """A file with ``def reference(site, params, x, h, W, b, **inputs)``; it is run when read.

    Raises:
        PeftError: V801, V802.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._module = _executed(path)
        self._function = getattr(self._module, "reference", None)
        self.training = bool(getattr(self._module, "TRAINING", False))
        if not callable(self._function):
            raise PeftError(
                f"{path} defines no function `reference`",
                code="V802",
                help="write `def reference(site, params, x, h, W, b, **inputs)`",
            )

    def __call__(self, bench: Bench, params: Values, values: Values) -> Outcome:
        """See `Reference`."""
        given: dict[str, Any] = {
            "site": facts_of(bench), "params": Params(params),
            "x": None, "h": None, "W": None, "b": None, **values, **bench.inputs,
        }  # fmt: skip
        found = self._called(given, bench)
        targets = {"h": found} if isinstance(found, Tensor) else found
        _check_targets(targets, values, bench, self.name)
        return bench.composed(values, dict(targets))

    def _called(self, given: dict[str, Any], bench: Bench) -> Any:
        function = self._function
        assert callable(function)
        signature = inspect.signature(function)
        every = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        chosen = given if every else {k: v for k, v in given.items() if k in signature.parameters}
        try:
            signature.bind(**chosen)
        except TypeError as error:
            raise PeftError(
                f"`reference` of {self.path} cannot be called at {bench.placed.situation.role}: "
                f"{error}", code="V802",
                help=f"it is given {', '.join(f'`{name}`' for name in given)}",
            ) from None  # fmt: skip
        try:
            return function(**chosen)
        except Exception as error:
            raise _raised(error, self.path, str(bench.placed.situation)) from None


def _executed(path: Path) -> ModuleType:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PeftError(
            f"the reference {path} cannot be read: {_first_line(error)}", code="V801",
            help="give the path of a Python file",
        ) from None  # fmt: skip
    spec = importlib.util.spec_from_loader(f"reference_{path.stem}", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102 -- the user's own
    except Exception as error:
        raise _raised(error, path, "while it was read", code="V801") from None
    return module


def _raised(error: Exception, path: Path, where: str, code: str = "V803") -> PeftError:
    """The user's own exception, with the line of the user's own file."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    source = (frames[-1].line if frames else getattr(error, "text", "")) or ""
    at = f"{path}:{line}" if line else str(path)
    shown = f": `{source.strip()}`" if source.strip() else ""
    return PeftError(
        f"{at}{shown} raised {type(error).__name__}: {_first_line(error)}", code=code,
        help=f"it was called for {where}" if code == "V803" else "mend the file",
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _check_targets(found: Any, values: Values, bench: Bench, name: str) -> None:
    scope = set(POSITIONS[bench.placed.situation.role]) & TARGETS
    good = isinstance(found, Mapping) and found and all(
        key in scope and isinstance(value, Tensor) for key, value in found.items()
    )  # fmt: skip
    if not good:
        raise PeftError(
            f"{name} returned {_described(found)} at {bench.placed.situation.role}", code="V804",
            help="return the new `h`, or a dict of new values: "
            + ", ".join(f"`{key}`" for key in sorted(scope)),
        )  # fmt: skip
    for key, value in found.items():
        _check_shape(key, value, values.get(key), name, bench)


def _described(found: Any) -> str:
    if isinstance(found, Mapping):
        return "a dict of " + ", ".join(f"`{k}`: {type(v).__name__}" for k, v in found.items())
    return "nothing" if found is None else f"a {type(found).__name__}"


def _check_shape(key: str, value: Tensor, old: Tensor | None, name: str, bench: Bench) -> None:
    if old is None or value.shape == old.shape:
        return
    longer = key in "kv" or (key == "h" and bench.placed.situation.role == "prompt")
    if longer and value.dim() == old.dim():
        shape, wanted = list(value.shape), list(old.shape)
        del shape[1], wanted[1]
        if shape == wanted:
            return
    raise PeftError(
        f"{name} returned a `{key}` of shape {list(value.shape)}, and the site's is "
        f"{list(old.shape)}", code="V805",
        help=f"batch and sequence come first; it was called for {bench.placed.situation}",
    )  # fmt: skip


def arguments(args: Mapping[str, Scalar]) -> str:
    """Hyper-parameters as they are written in a call."""
    return ", ".join(f"{key} = {value}" for key, value in args.items())
