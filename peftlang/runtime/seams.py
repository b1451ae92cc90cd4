"""Single operations of a module, changed while the module's own Python runs.

torch lets a mode see each operation that it is asked for (``TorchFunctionMode``): in eager code,
and as TorchDynamo and ``torch.export`` trace it. The mode is on while one module's forward runs,
follows which operations that asks for, and changes some of them. A module that asks for others
than it did when the code was written computes something else, so the call fails.
"""

import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from peftlang.capture.facts import asked_name
from peftlang.diagnostics import PeftError

At = Callable[[Any, Any, Any], Any]
"""Computes an operation in its place: the function, its operands, those given by name."""


_READING = frozenset({"get shape", "size"})


class Seams(TorchFunctionMode):
    """Changes operations.

    Args:
        path: The module.
        asked: Names of the operations that it asks for, up to the last that is changed or seen.
        places: What computes an operation, by how many the module asked for before.
        named: What computes an operation, by its name and how many of that name there were before;
            and how many of that name there are.
        opened: Modules whose operations count.
    """

    def __init__(
        self,
        path: str,
        asked: Sequence[str],
        places: Mapping[int, At],
        named: Mapping[tuple[str, int], At],
        opened: Collection[str],
    ) -> None:
        super().__init__()
        self.path, self.opened = path, opened
        self._asked, self._places, self._named = asked, places, named
        self._count = 0
        self._counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = func
        if func is Tensor.unflatten:
            # The one method of `Tensor` in Python that TorchDynamo does not trace under a mode.
            called = torch.unflatten
        if torch.jit._trace.is_tracing() and (_are_sizes(args) or asked_name(func) in _READING):
            made = called(*args, **(kwargs or {}))
            if _are_sizes(made):
                return made
        if _LOCAL.active[0] is not self:
            return called(*args, **(kwargs or {}))
        name = asked_name(func)
        at = self._by_name(name)
        if self._count < len(self._asked):
            if self._asked[self._count] != name:
                return self._not_asked(name, called(*args, **(kwargs or {})))
            at = at or self._places.get(self._count)
            self._count += 1
        return called(*args, **(kwargs or {})) if at is None else at(called, args, kwargs or {})

    def _not_asked(self, name: str, result: Any) -> Any:
        """What is asked for where another operation should be: right where it computes nothing."""
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            refuse(deviated, self.path, name, self._asked[self._count])
        return result

    def _by_name(self, name: str) -> At | None:
        if not self._named:
            return None
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        return self._named.get((name, number))

    def check(self, wanted: Mapping[str, int]) -> None:
        """All that had to be done was done.

        Args:
            wanted: How many operations of a name there have to be.

        Raises:
            PeftError: R501.
        """
        if self._count < len(self._asked):
            refuse(missed, self.path, self._asked[-1])
        for name, count in wanted.items():
            if self._counts.get(name, 0) != count:
                refuse(missed, self.path, name)


def _are_sizes(values: Any) -> bool:
    """Whether these may be sizes of tensors: `torch.jit.trace` makes tensors of them."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return bool(tensors) and all(t.dim() == 0 and t.dtype is torch.int64 for t in tensors)


class _Local(threading.local):
    """The mode whose module is running in this thread, innermost, if there is one."""

    def __init__(self) -> None:
        self.active: list[Seams | None] = [None]


_LOCAL = _Local()


class Seen:
    """Operations inside of the ``with`` block are those of one mode's module; of none for None.

    A module whose operations are changed one by one holds others, and adapters act in them; their
    operations are neither counted nor changed.
    """

    def __init__(self, by: Seams | None) -> None:
        self._by, self._before = by, _LOCAL.active[0]

    def __enter__(self) -> None:
        _LOCAL.active[0] = self._by

    def __exit__(self, *_: object) -> None:
        _LOCAL.active[0] = self._before


def unseen() -> Seen:
    """Operations inside of the ``with`` block are the adapters' own, and no module's."""
    return Seen(None)


def is_open(path: str) -> bool:
    """Whether the operations of a module count for the mode whose module is running, if any."""
    active = _LOCAL.active[0]
    return active is None or path in active.opened


def tensors_of(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among operands, in order, each once."""
    found: list[Tensor] = []
    for leaf in tree_leaves((tuple(args), dict(kwargs))):
        if isinstance(leaf, Tensor) and not any(leaf is other for other in found):
            found.append(leaf)
    return found


def refuse(error: Callable[..., PeftError], *facts: str) -> None:
    """Raise an error: to who calls the model, and to who compiles it, while TorchDynamo traces."""
    made = error(*facts)
    if TracingContext.try_get() is not None:
        made.__class__ = _while_traced()
    raise made


@functools.cache
def _while_traced() -> Any:
    """The class of an error that TorchDynamo hands on as it is, not as a fault of its own."""
    from torch._dynamo import exc

    kind = getattr(exc, "PackageError", exc.TorchDynamoException)
    return type("PeftError", (PeftError, kind), {"__module__": PeftError.__module__})


# TorchDynamo then calls it as it traces. An error that traced code makes would be one graph break
# more to it, and under `fullgraph=True` a text about that.
refuse._dynamo_marked_constant = True  # type: ignore[attr-defined]


def missed(path: str, names: str) -> PeftError:
    """The error for an operation of a module that was not asked for."""
    return PeftError(
        f"{_module(path)} ran without the operation in which its adapter acts ({names}), so it did "
        "not act",
        code="R501",
        help=_HELP,
    )


def deviated(path: str, name: str, wanted: str) -> PeftError:
    """The error for a module that asks for another operation than when its code was written."""
    return PeftError(
        f"{_module(path)} computes otherwise than when its adapter was written into it (`{name}`, "
        f"and not `{wanted}`), so it did not act",
        code="R501",
        help=_HELP,
    )


_HELP = (
    "the model computes otherwise than when it was adapted: adapt it as it is now, in the mode and "
    "with the kind of input that it has; before torch.compile or torch.export, call it once as it "
    "will be called; for the base without its adapter, use `with peftlang.disabled(model):`"
)


def _module(path: str) -> str:
    return f"`{path}`" if path else "the model"
