"""One call of one module, with what the active adapters say there."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from peftlang.capture import Place
from peftlang.capture.storage import is_sharded
from peftlang.dataflow.borders import Border
from peftlang.diagnostics import PeftError
from peftlang.emit.slots import Slot
from peftlang.regions.program import AtOperation, Kept, Operand, Piece, Program
from peftlang.runtime.call import Call
from peftlang.runtime.seams import At, unseen
from peftlang.runtime.shards import as_part, as_shared

Read = Callable[[Slot], Any]
"""Gives the value of a slot in a call."""


class Run:
    """One call of one module.

    Args:
        call: The call of the model.
        read: Gives the values of slots.
        split: Says how the processes share the place where an adapter's tensor is.
        args: The module's arguments.
        kwargs: Those given by name.
    """

    def __init__(
        self,
        call: Call,
        read: Read,
        split: Callable[[Slot], tuple[str, ...]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.call, self._read, self._split = call, read, split
        self.args, self.kwargs = args, kwargs
        self.result: Any = None
        self._kept: dict[int, Any] = {}

    def keep(self, program: Program) -> None:
        """Keep arguments that are needed later."""
        for border, kept in program.kept:
            self.see(kept, argument(self.args, self.kwargs, border.place))

    def see(self, kept: Kept, value: Any) -> None:
        """Keep a value, such as what an operation made."""
        self._kept[kept.number] = value.clone() if kept.copied else value

    def given(self, kept: Sequence[tuple[Operand, Kept]], operands: Any, options: Any) -> None:
        """Keep operands that an operation is given."""
        for operand, place in kept:
            self.see(place, self._value(operand, operands, options))

    def piece(self, piece: Piece, operands: Any = None, options: Any = None) -> tuple[Any, Any]:
        """Run a piece of code, and put what it makes where it goes.

        Args:
            piece: The code.
            operands: Those of the operation at which it runs.
            options: Those given by name.

        Returns:
            The operation's operands, and those given by name.
        """
        values = [self._value(source, operands, options) for source in piece.sources]
        shared = self._shared(piece, values)
        if shared is not None:
            mesh, split = shared
            pairs = zip(piece.sources, values, strict=True)
            values = [v if _is_whole(v) else as_shared(v, _what(s), mesh, split) for s, v in pairs]
        with unseen():
            made: Sequence[Any] = piece.run(*values)
        if shared is not None:
            results = zip(piece.targets, made, strict=True)
            made = [v if isinstance(t, Kept) else as_part(v, _what(t), split) for t, v in results]
        for target, value in zip(piece.targets, made, strict=True):
            if isinstance(target, Operand) and target.into:
                self._value(target, operands, options).copy_(value)
            elif isinstance(target, Operand):
                operands, options = with_operand(operands, options, target, value)
            else:
                self._put(target, value)
        for target, value in piece.fixed:
            operands, options = with_operand(operands, options, target, value)
        return operands, options

    def _shared(self, piece: Piece, values: Sequence[Any]) -> tuple[Any, tuple[str, ...]] | None:
        """The mesh and the split, where the adapter is in parts, and the module's values are not.

        Without gradients, a layer that is parallel by tensors computes with plain ones.
        """
        whole = next((v for v in values if is_sharded(v)), None)
        if whole is None or all(map(_is_whole, values)):
            return None
        slots = [s for s in piece.sources if isinstance(s, Slot) and s.kind == "tensor"]
        split = next((found for slot in slots if (found := self._split(slot))), ())
        return whole.device_mesh, split or ("",) * whole.device_mesh.ndim

    def _value(self, source: Any, operands: Any, options: Any) -> Any:
        if isinstance(source, Slot):
            return self._read(source)
        if isinstance(source, Kept):
            return self._kept[source.number]
        if isinstance(source, Border):
            if source.side == "in":
                return argument(self.args, self.kwargs, source.place)
            return inner(self.result, source.place.path)
        value = operands[source.key] if isinstance(source.key, int) else options[source.key]
        return inner(value, source.path)

    def _put(self, target: Any, value: Any) -> None:
        if isinstance(target, Kept):
            self.see(target, value)
        elif isinstance(target, Slot):
            hand_on(self.call, target, value)
        elif target.side == "in":
            self.args, self.kwargs = with_argument(self.args, self.kwargs, target.place, value)
        else:
            self.result = with_inner(self.result, target.place.path, value)


def _is_whole(value: Any) -> bool:
    """Whether a value needs no word about which part of something it is."""
    return is_sharded(value) or not isinstance(value, Tensor)


def _what(place: Any) -> str:
    if isinstance(place, Border):
        return "x" if place.side == "in" else "h"
    if isinstance(place, Slot):
        return "W" if place.kind == "weight" and place.name.endswith("weight") else ""
    return "x"


def hand_on(call: Call, slot: Slot, value: Any) -> None:
    """Let others of the same call have a value."""
    key = slot.key
    if slot.kind == "penalty":
        call.terms[key] = call.terms[key] + value if key in call.terms else value
    else:
        call.values[key] = value


def places(program: Program, run: Run) -> dict[int, At]:
    """Which operations are changed or looked at, for `Seams`."""
    found: dict[int, At] = {}
    for at in program.operations:

        def compute(func: Any, args: Any, kwargs: Any, at: AtOperation = at) -> Any:
            run.given(at.given, args, kwargs)
            if at.before is not None:
                args, kwargs = run.piece(at.before, args, kwargs)
            result = func(*args, **kwargs)
            if at.seen is not None:
                run.see(at.seen, result)
            return result

        found[at.number] = compute
    return found


Described = tuple[tuple[Any, ...], tuple[str, ...], tuple[Any, ...]]
"""An operation's operands, names of options, and options: plain values, and kinds of tensors."""


def described(args: Any, kwargs: Any, folded: tuple[int, int] | None) -> Described:
    """What the code for an operation depends on.

    Args:
        args: The operation's operands.
        kwargs: Those given by name.
        folded: How many heads of keys there are, and of queries for each, where they differ.
    """
    seen: list[Tensor] = []
    kinds = tuple(_kind(value, folded, seen) for value in (*args, *kwargs.values()))
    return kinds[: len(args)], tuple(kwargs), kinds[len(args) :]


def _kind(value: Any, folded: tuple[int, int] | None, seen: list[Tensor]) -> Any:
    """What a value is, or which of the tensors before it that is the same one."""
    if not isinstance(value, Tensor):
        return value
    for place, other in enumerate(seen):
        if other is value:
            return "same", place
    seen.append(value)
    return kind_of(value, folded)


def kind_of(value: Tensor, folded: tuple[int, int] | None) -> Any:
    """A tensor as code depends on it; batch and tokens may be others in the next call."""
    dims = value.dim()
    heads = int(value.shape[1]) if dims == 4 else 0
    alike = folded is not None and dims == 4 and heads == folded[0] and value.shape[2] == folded[1]
    return "tensor", value.dtype.is_floating_point, dims, heads, alike


# Arguments and results


def argument(args: Sequence[Any], kwargs: dict[str, Any], place: Place) -> Any:
    """The tensor at a place among the arguments of a call."""
    if place.name is not None and place.name in kwargs:
        return inner(kwargs[place.name], place.path)
    if place.position is not None and place.position < len(args):
        return inner(args[place.position], place.path)
    raise not_given(place)


def not_given(place: Place) -> PeftError:
    """The error for a call that lacks an argument with which the model was adapted."""
    return PeftError(
        f"the module that an adapter acts on was called without `{place.name}`",
        code="R501",
        help="call it as the model does, or call the whole model",
    )


def with_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], place: Place, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with another tensor at a place."""
    if place.name is not None and place.name in kwargs:
        return args, {**kwargs, place.name: with_inner(kwargs[place.name], place.path, value)}
    index = place.position
    if index is None or index >= len(args):
        raise not_given(place)
    changed = with_inner(args[index], place.path, value)
    return (*args[:index], changed, *args[index + 1 :]), kwargs


def inner(value: Any, path: tuple[Any, ...]) -> Any:
    """What lies on a path in nested sequences and mappings."""
    for key in path:
        value = value[key]
    return value


def with_inner(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Nested sequences and mappings with something else on a path."""
    if not path:
        return new
    key, *rest = path
    changed = with_inner(value[key], tuple(rest), new)
    if isinstance(value, tuple):
        items = (*value[:key], changed, *value[key + 1 :])
        return type(value)(*items) if hasattr(value, "_fields") else items
    value[key] = changed
    return value


def with_operand(
    args: Any, kwargs: Any, operand: Operand, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An operation's operands with another in one place."""
    args, kwargs = tuple(args), dict(kwargs)
    if isinstance(operand.key, str):
        kwargs[operand.key] = with_inner(kwargs.get(operand.key), operand.path, value)
        return args, kwargs
    index = operand.key
    changed = with_inner(args[index] if index < len(args) else None, operand.path, value)
    return (*args[:index], changed, *args[index + 1 :]), kwargs
