"""References that are Python files."""

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from peftlang.diagnostics import PeftError
from peftlang.ir.positions import POSITIONS
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome
from peftlang.verifying.references.reference import Params, facts_of
from peftlang.verifying.search import UnfitSite, Violation

TARGETS = frozenset({"h", "x", "W", "b", "q", "k", "v"})

FUNCTIONS = {
    "reference": "site, params, x, h, W, b, **inputs",
    "reference_model": "model, sites, params, trained, **inputs",
    "trained": "model",
    "initial": "site, W, b",
    "penalty": "site, params, x, h, **inputs",
    "rates": "site",
}
"""What a file may define, and what each function is given."""

Claim = Tensor | Distribution | Callable[[Tensor], bool]
"""How a tensor starts: exactly so, drawn from that, or so that the function says yes."""

COMPARED = ("reference", "reference_model", "trained")
"""Of these a file has at least one."""


class PythonReference:
    """A file with functions of plain torch; it is run when read.

    Attributes:
        path: The file.
        name: The file's name, for messages.
        defined: All that the file defines, by name.
        training: Whether the file mirrors training mode.

    Raises:
        PeftError: V801, V802.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.defined: Mapping[str, Any] = vars(_executed(path))
        self.training = bool(self.defined.get("TRAINING", False))
        _check_constants(self.defined, self.name)
        if not any(map(self.has, COMPARED)):
            raise self.lacks("`reference`, `reference_model` or `trained`", "reference")

    def has(self, function: str) -> bool:
        """Whether the file defines a function of that name."""
        return callable(self.defined.get(function))

    def lacks(self, what: str, function: str) -> PeftError:
        """The error that a function is missing."""
        return PeftError(
            f"{self.path} defines no function {what}",
            code="V802",
            help=f"write `def {function}({FUNCTIONS[function]})`",
        )

    def __call__(self, site: OneSite, params: Values, values: Values) -> Outcome:
        """See `Reference`."""
        if not self.has("reference"):
            raise self.lacks("`reference`", "reference")
        given = arguments(site, params, values)
        found = self.call("reference", given, str(site.placed))
        targets = {"h": found} if isinstance(found, Tensor) else found
        _check_targets(targets, values, site, self.name)
        return site.composed(values, dict(targets))

    def initial(self, site: OneSite) -> Mapping[str, Claim]:
        """How each tensor starts, by its name; the file has ``initial``.

        Raises:
            PeftError: V802, V803, V804.
        """
        weights = {name: site.frozen.get(name) for name in ("W", "b")}
        found = self.call("initial", {"site": facts_of(site), **weights}, str(site.placed))
        kinds = (Tensor, Distribution)
        if not isinstance(found, Mapping) or not all(
            isinstance(claim, kinds) or callable(claim) for claim in found.values()
        ):
            raise self._wrong(
                "initial",
                found,
                "return, for each tensor by name, a tensor, a torch distribution of the tensor's "
                "shape, or a function that says whether many starts will do",
            )
        return found

    def penalty(self, site: OneSite) -> Tensor:
        """What joins the loss for one site; the file has ``penalty``.

        Raises:
            PeftError: V802, V803, V804.
        """
        given = arguments(site, site.tensors, site.values())
        found = self.call("penalty", given, str(site.placed))
        if not isinstance(found, Tensor) or found.dim():
            raise self._wrong("penalty", found, "return a scalar tensor")
        return found

    def rates(self, site: OneSite) -> dict[str, float]:
        """Learning rates by name, as multiples of the adapter's; the file has ``rates``.

        Raises:
            PeftError: V802, V803, V804.
        """
        found = self.call("rates", {"site": facts_of(site)}, str(site.placed))
        if not isinstance(found, Mapping) or not all(map(_is_number, found.values())):
            help_ = "return a number for each tensor by name, as multiples of the adapter's rate"
            raise self._wrong("rates", found, help_)
        return {str(name): float(rate) for name, rate in found.items()}

    def _wrong(self, function: str, found: Any, help_: str) -> PeftError:
        what = f"`{function}` of {self.name} returned {describe(found)}"
        return PeftError(what, code="V804", help=help_)

    def call(self, name: str, given: Mapping[str, Any], where: str) -> Any:
        """Call a function of the file with those of the arguments that it names.

        Args:
            name: The function, which is there.
            given: All that it may ask for.
            where: The site or the model, for messages.

        Raises:
            PeftError: V802, it asks for something else; V803, it raises.
        """
        function: Callable[..., Any] = self.defined[name]
        signature = inspect.signature(function)
        every = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        chosen = given if every else {k: v for k, v in given.items() if k in signature.parameters}
        try:
            signature.bind(**chosen)
        except TypeError as error:
            raise PeftError(
                f"`{name}` of {self.path} cannot be called: {error}",
                code="V802",
                help=f"for {where} it is given {', '.join(f'`{key}`' for key in given)}",
            ) from None
        return self.guard(lambda: function(**chosen), where)

    def guard(self, run: Callable[[], Any], where: str, *, theirs: bool = True) -> Any:
        """Run something of the file's.

        Args:
            run: What to run.
            where: The site or the model, for messages.
            theirs: Whether all that it raises is the file's; else only what passes through it.

        Raises:
            PeftError: V803, it raises; with the line of the file.
        """
        try:
            return run()
        except (PeftError, Violation, UnfitSite):
            raise
        except (Exception, SystemExit) as error:
            if not theirs and not _frames(error, self.path):
                raise
            raise _raised(error, self.path, where) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _executed(path: Path) -> ModuleType:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PeftError(
            f"the reference {path} cannot be read: {_first_line(error)}",
            code="V801",
            help="give the path of a Python file",
        ) from None
    spec = importlib.util.spec_from_loader(f"reference_{path.stem}", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102 -- the user's own
    except (Exception, SystemExit) as error:
        raise _raised(error, path, "while it was read", code="V801") from None
    return module


_CONSTANTS: dict[str, tuple[type, str]] = {
    "POSITIONS": (Collection, 'write `POSITIONS = ("…", "…")`, a tuple of names'),
    "FROZEN": (Collection, 'write `FROZEN = ("…", "…")`, a tuple of names'),
    "SHARED": (Mapping, 'write `SHARED = {"A": "layers"}`'),
    "TIED": (Mapping, 'write `TIED = {"A": ("first", "second")}`'),
}


def _check_constants(defined: Mapping[str, Any], name: str) -> None:
    """Names are texts, in a tuple or by name."""
    for constant, (wanted, help_) in _CONSTANTS.items():
        if constant not in defined:
            continue
        value = defined[constant]
        texts = not isinstance(value, str) and isinstance(value, wanted)
        if not texts or not all(isinstance(one, str) for one in value):
            raise PeftError(f"`{constant}` of {name} is {describe(value)}", code="V804", help=help_)


def _frames(error: BaseException, path: Path) -> list[traceback.FrameSummary]:
    return [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]


def _raised(error: BaseException, path: Path, where: str, code: str = "V803") -> PeftError:
    """The user's own exception, with the line of the user's own file."""
    frames = _frames(error, path)
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    source = (frames[-1].line if frames else getattr(error, "text", "")) or ""
    at = f"{path}:{line}" if line else str(path)
    shown = f": `{source.strip()}`" if source.strip() else ""
    return PeftError(
        f"{at}{shown} raised {type(error).__name__}: {_first_line(error)}",
        code=code,
        help=f"it was called for {where}" if code == "V803" else "mend the file",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def arguments(site: OneSite, params: Values, values: Values) -> dict[str, Any]:
    """What a function of the file may ask for, by name.

    An input, a tap or a carried state that is called like a value of the site stands in its
    place, as it does in the spec.
    """
    absent = dict.fromkeys(("x", "h", "W", "b"))
    own = {"site": facts_of(site), "params": Params(params)}
    return {**absent, **values, **site.inputs, **own}


def _check_targets(found: Any, values: Values, site: OneSite, name: str) -> None:
    carried = {carry.name for carry in site.placed.method.carries}
    scope = set(POSITIONS[site.placed.case.role]) & TARGETS | carried
    good = (
        isinstance(found, Mapping)
        and found
        and all(key in scope and isinstance(value, Tensor) for key, value in found.items())
    )
    if not good:
        raise PeftError(
            f"{name} returned {describe(found)} at {site.placed.case.role}",
            code="V804",
            help="return the new `h`, or a dict of new values: "
            + ", ".join(f"`{key}`" for key in sorted(scope)),
        )
    for key, value in found.items():
        old = site.inputs.get(key) if key in carried else values.get(key)
        _check_shape(key, value, old, name, site)


def describe(found: Any) -> str:
    """What a reference returned, for messages."""
    if isinstance(found, Mapping):
        return "a dict of " + ", ".join(f"`{k}`: {type(v).__name__}" for k, v in found.items())
    return "nothing" if found is None else f"a {type(found).__name__}"


def _check_shape(key: str, value: Tensor, old: Tensor | None, name: str, site: OneSite) -> None:
    if old is None or value.shape == old.shape:
        return
    longer = key in "kv" or (key == "h" and site.placed.case.role == "prompt")
    if longer and value.dim() == old.dim():
        shape, wanted = list(value.shape), list(old.shape)
        del shape[1], wanted[1]
        if shape == wanted:
            return
    raise PeftError(
        f"{name} returned a `{key}` of shape {list(value.shape)}, and the site's is "
        f"{list(old.shape)}",
        code="V805",
        help=f"batch and sequence come first; it was called for {site.placed}",
    )
