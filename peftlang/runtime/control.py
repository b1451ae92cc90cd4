"""The adapters that a model has: looked at, switched, fed and taken off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from peftlang.capture.storage import device_of
from peftlang.diagnostics import PeftError
from peftlang.ir.plan import Site
from peftlang.prompts.cache import prepare_generation
from peftlang.runtime import registry as state
from peftlang.runtime.call import scope_of, scoped, supplied
from peftlang.runtime.inputs import checked
from peftlang.runtime.registry import Registry


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Run the base exactly, without any adapter, inside the ``with`` block.

    It holds for the thread, or the asynchronous task, that says so.

    Raises:
        PeftError: R505, the model has no adapter.
    """
    found = state.of(model)
    with scoped(found.calls, ()):
        yield


@contextmanager
def active(model: nn.Module, *names: str) -> Iterator[None]:
    """Let exactly these adapters act, in this order, inside the ``with`` block.

    It holds for the thread, or the asynchronous task, that says so; ``set_active`` is for all.

    Raises:
        PeftError: R504, R505.
    """
    found = state.of(model)
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        found.require(name)
    found.acting(chosen)
    with scoped(found.calls, chosen):
        yield


@contextmanager
def inputs(model: nn.Module, /, **values: Any) -> Iterator[None]:
    """Supply values that the spec declares as ``input``, for the calls inside the block.

    Args:
        model: An adapted model.
        **values: A number, a sequence, or a tensor for each input: one for the whole batch, or
            one per row.

    Raises:
        PeftError: R505; R512, no active adapter has that input, or the value does not fit.
    """
    found = state.of(model)
    acting = found.acting(scope_of(found.calls))
    device = device_of(model)
    with supplied(found.calls, checked(acting.inputs if acting else {}, values, device)):
        yield


def penalties(model: nn.Module) -> dict[str, Tensor]:
    """The penalty terms of the last call in training, by ``adapter.placement``; else empty.

    Each is one number, the sum over the placement's sites, through which gradients flow. They
    are in the loss that the model returned, if it returned one.

    Raises:
        PeftError: R505, the model has no adapter.
    """
    found = state.of(model)
    acting = found.acting(scope_of(found.calls))
    own = {plan.name for plan in acting.plans} if acting else set()
    terms = {name.removeprefix("penalty:"): value for name, value in found.terms.items()}
    return {name: value for name, value in terms.items() if name.partition(".")[0] in own}


def set_active(model: nn.Module, *names: str) -> None:
    """Let exactly these adapters act, in this order; none for the base.

    Raises:
        PeftError: R504, R505.
    """
    if not all(isinstance(name, str) for name in names):
        raise PeftError(
            "the names of adapters are strings, one argument each",
            code="R504",
            help='write set_active(model, "first", "second")',
        )
    state.of(model).activate(names)


def remove(model: nn.Module, name: str = "default") -> None:
    """Take an adapter off; with the last one the model is as it was before the first.

    Raises:
        PeftError: R504, R505.
    """
    found = state.of(model)
    found.remove(name)
    prepare_generation(model, (record.plan for record in found.records.values()))


class AdapterView:
    """One adapter on a model, for looking at.

    Attributes:
        name: Its name on the model.
        plan: Placements, sites and tensors (``peftlang.ir.plan.Plan``).
        active: Whether it acts.
    """

    def __init__(self, name: str, owner: Registry) -> None:
        self.name, self._owner = name, owner
        self.plan = owner.records[name].plan
        self.active = name in owner.active

    @property
    def sites(self) -> list[Site]:
        """Every site in use, in order of placement."""
        return list(self.plan.sites.values())

    def parameters(self) -> dict[str, nn.Parameter]:
        """Trainable tensors by group name."""
        pairs = self._owner.tensors(self.name).named()
        return {name: value for name, value in pairs if isinstance(value, nn.Parameter)}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by group name, buffers included."""
        return dict(self._owner.tensors(self.name).named())

    @property
    def trainable(self) -> int:
        """Number of trainable numbers."""
        return sum(p.numel() for p in self.parameters().values())

    def __repr__(self) -> str:
        count = len(self.plan.sites)
        what = f"{self.plan.adapter}, {count} sites, {self.trainable:,} trainable"
        return f"<adapter {self.name}: {what}>"


def adapters(model: nn.Module) -> dict[str, AdapterView]:
    """The adapters of a model by name; empty for a model that has none."""
    found = state.find(model)
    return {n: AdapterView(n, found) for n in found.records} if found else {}
