"""References that are Python files."""

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from peftlang.diagnostics import PeftError
from peftlang.ir.positions import POSITIONS
from peftlang.verifying.bench import Bench, Outcome, Values
from peftlang.verifying.references import Params, facts_of
from peftlang.verifying.running import Broken

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

COMPARED = ("reference", "reference_model", "trained")
"""Of these a file has at least one."""


class PythonReference:
    """A file with functions of plain torch; it is run when read.

    Attributes:
        path: The file.
        name: The file's name, for messages.
        stated: All that the file defines, by name.
        training: Whether the file mirrors training mode.

    Raises:
        PeftError: V801, V802.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.stated: Mapping[str, Any] = vars(_executed(path))
        self.training = bool(self.stated.get("TRAINING", False))
        _check_constants(self.stated, self.name)
        if not any(map(self.has, COMPARED)):
            raise self.lacks(
                "`reference`, `reference_model` or `trained`", "reference"
            )  # fmt: skip

    def has(self, function: str) -> bool:
        """Whether the file defines a function of that name."""
        return callable(self.stated.get(function))

    def lacks(self, what: str, function: str) -> PeftError:
        """The error that a function is missing."""
        return PeftError(
            f"{self.path} defines no function {what}", code="V802",
            help=f"write `def {function}({FUNCTIONS[function]})`",
        )  # fmt: skip

    def __call__(self, bench: Bench, params: Values, values: Values) -> Outcome:
        """See `Reference`."""
        if not self.has("reference"):
            raise self.lacks("`reference`", "reference")
        given: dict[str, Any] = {
            "site": facts_of(bench), "params": Params(params),
            "x": None, "h": None, "W": None, "b": None, **values, **bench.inputs,
        }  # fmt: skip
        found = self.call("reference", given, str(bench.placed.situation))
        targets = {"h": found} if isinstance(found, Tensor) else found
        _check_targets(targets, values, bench, self.name)
        return bench.composed(values, dict(targets))

    def call(self, name: str, given: Mapping[str, Any], where: str) -> Any:
        """Call a function of the file with those of the arguments that it names.

        Args:
            name: The function, which is there.
            given: All that it may ask for.
            where: The site or the model, for messages.

        Raises:
            PeftError: V802, it asks for something else; V803, it raises.
        """
        function: Callable[..., Any] = self.stated[name]
        signature = inspect.signature(function)
        every = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        chosen = given if every else {k: v for k, v in given.items() if k in signature.parameters}
        try:
            signature.bind(**chosen)
        except TypeError as error:
            raise PeftError(
                f"`{name}` of {self.path} cannot be called: {error}", code="V802",
                help=f"for {where} it is given {', '.join(f'`{key}`' for key in given)}",
            ) from None  # fmt: skip
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
        except (PeftError, Broken):
            raise
        except (Exception, SystemExit) as error:
            if not theirs and not _frames(error, self.path):
                raise
            raise _raised(error, self.path, where) from None


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
    except (Exception, SystemExit) as error:
        raise _raised(error, path, "while it was read", code="V801") from None
    return module


_NAMED = {
    "SHARED": 'write `SHARED = {"A": "layers"}`',
    "TIED": 'write `TIED = {"A": ("first", "second")}`',
}


def _check_constants(stated: Mapping[str, Any], name: str) -> None:
    """Names are texts, in a tuple or by name."""
    for constant in ("POSITIONS", "FROZEN", "SHARED", "TIED"):
        value = stated.get(constant, ())
        named = constant in ("SHARED", "TIED")
        wanted = Mapping if named and constant in stated else Collection
        texts = not isinstance(value, str) and isinstance(value, wanted)
        if not texts or not all(isinstance(one, str) for one in value):
            raise PeftError(
                f"`{constant}` of {name} is {describe(value)}", code="V804",
                help=_NAMED.get(constant, f'write `{constant} = ("…", "…")`, a tuple of names'),
            )  # fmt: skip


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
        f"{at}{shown} raised {type(error).__name__}: {_first_line(error)}", code=code,
        help=f"it was called for {where}" if code == "V803" else "mend the file",
    )  # fmt: skip


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _check_targets(found: Any, values: Values, bench: Bench, name: str) -> None:
    carried = {carry.name for carry in bench.placed.method.carries}
    scope = set(POSITIONS[bench.placed.situation.role]) & TARGETS | carried
    good = isinstance(found, Mapping) and found and all(
        key in scope and isinstance(value, Tensor) for key, value in found.items()
    )  # fmt: skip
    if not good:
        raise PeftError(
            f"{name} returned {describe(found)} at {bench.placed.situation.role}", code="V804",
            help="return the new `h`, or a dict of new values: "
            + ", ".join(f"`{key}`" for key in sorted(scope)),
        )  # fmt: skip
    for key, value in found.items():
        _check_shape(key, value, {**values, **bench.inputs}.get(key), name, bench)


def describe(found: Any) -> str:
    """What a reference returned, for messages."""
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
