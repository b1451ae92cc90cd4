"""What the slots of a piece of code stand for, in one call of an adapted model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from peftlang.capture.storage import is_quantised, packed, unpacked
from peftlang.diagnostics import PeftError
from peftlang.emit.slots import Slot
from peftlang.runtime.call import Call
from peftlang.runtime.holders import AdapterTensors


class _Terms(threading.local):
    """The penalties of a thread's last call; in a list, as what belongs to a call is."""

    def __init__(self) -> None:
        self.last: list[dict[str, Tensor]] = [{}]


class Values:
    """Where values come from.

    Attributes:
        root: The model.
        tensors: The adapters' tensors, by the adapter's name.
    """

    def __init__(self, root: nn.Module, tensors: Mapping[str, AdapterTensors]) -> None:
        self.root, self.tensors = root, tensors
        self._terms = _Terms()

    def __getstate__(self) -> dict[str, Any]:
        """What threads have computed stays with them."""
        return {name: value for name, value in self.__dict__.items() if name != "_terms"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._terms = _Terms()

    def reader(self, call: Call) -> Callable[[Slot], Any]:
        """What gives slots' values; each holder is called once: its forward may bring them."""
        held: dict[int, list[Tensor]] = {}

        def read(slot: Slot) -> Any:
            if slot.kind == "tensor":
                holder, leaf = self.tensors[slot.adapter].places[slot.name]
                if id(holder) not in held:
                    held[id(holder)] = holder()
                return held[id(holder)][holder.names.index(leaf)]
            return self._value(call, slot)

        return read

    def split(self, slot: Slot) -> tuple[str, ...]:
        """How the processes share the place where an adapter's tensor is."""
        return self.tensors[slot.adapter].places[slot.name][0].split

    def _value(self, call: Call, slot: Slot) -> Any:
        if slot.kind == "weight":
            return self.base_weight(slot.name)
        if slot.kind == "grid":
            return call.values.get(f"value:{slot.name}")
        if slot.kind == "buffer":
            return self.root.get_buffer(slot.name)
        if slot.kind == "input":
            if slot.name not in call.inputs:
                raise missing_input(slot.name)
            return call.inputs[slot.name]
        key = slot.key
        if key in call.given:
            return call.given[key]
        if key not in call.values:
            raise not_made(slot)
        return call.values[key]

    def value(self, call: Call, slot: Slot) -> Any:
        """The value of a slot in a call."""
        if slot.kind == "tensor":
            return self.tensors[slot.adapter].tensor(slot.name)
        return self._value(call, slot)

    def last_terms(self, terms: dict[str, Tensor]) -> None:
        """Keep the penalties of this thread's last call."""
        self._terms.last[0] = terms

    @property
    def terms(self) -> dict[str, Tensor]:
        """The penalties of this thread's last call in training."""
        return self._terms.last[0]

    def base_weight(self, name: str) -> Tensor:
        """A parameter of the base by name, or an adapter's copy that is trained in its place."""
        owner, _, leaf = name.rpartition(".")
        module = self.root.get_submodule(owner)
        if leaf == "weight" and packed(module) is not None:
            return unpacked(module, owner)
        found: Tensor = getattr(module, leaf)
        return found.dequantize() if is_quantised(found) else found


def missing_input(name: str) -> PeftError:
    """The error for a call without a value that the adapter needs."""
    return PeftError(
        f"the adapter needs `{name}`, which this call does not supply",
        code="R503",
        help=f"pass {name}=... to the model, or use `with peftlang.inputs(model, {name}=...):`",
    )


def not_made(slot: Slot) -> PeftError:
    """The error for what reads a value that nothing in the same call has made."""
    return PeftError(
        f"the value `{slot.name}` of another site is not there: no earlier part of this call made "
        "it",
        code="R521",
        help="a tap or a carried state lives within one call: call the whole model, rather than "
        "one part of it; an encoder that `generate` runs by itself is a call of its own",
    )
