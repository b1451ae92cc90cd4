"""The adapted model: which adapters it has, which act, and how a call reaches them."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import RECOMPILE_LIMIT, ModelNames, at_once, experts_of
from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.ir.method import InputDef
from peftlang.ir.plan import Plan, Site
from peftlang.passes.rewriting import ActivePlan, Rewriting
from peftlang.passes.streams import PENALTY, STREAM
from peftlang.runtime.backend import GraphBackend
from peftlang.runtime.calls import before_call
from peftlang.runtime.conditions import checked
from peftlang.runtime.doors import DOOR, Door, close_door, open_door
from peftlang.runtime.generation import prepare_generation
from peftlang.runtime.store import STORE, AdapterTensors

STATE = "_peftlang"


@dataclass(frozen=True)
class AdapterRecord:
    """One adapter on a model.

    Attributes:
        plan: What goes where.
        seed: Seed of its tensors.
    """

    plan: Plan
    seed: int


class Adapted:
    """The adapters of one model, and the switchboard that its doors ask.

    Attributes:
        root: The model.
        records: Adapters by name, in the order in which they were added.
        serials: What tells an adapter from others that had or will have its name, by name.
        active: Names of those that act, in the order in which they act.
        enabled: False inside ``peftlang.disabled``.
        inside: True while a door's compiled function runs: graphs that Dynamo records now
            come to our backend.
        variant: A string that is different for different sets of active adapters and of values
            that belong to the call at hand; an adapter that is put on again is another one.
        guarded: What Dynamo guards on, besides a door's path and mode: which modules are doors,
            and with inner backends that compile for one variant, the variant.
        inputs: Values that the caller supplied, by input name.
        given: Values that belong to the call at hand, by slot name.
        rooms: In this call, by path of a layer: how many soft tokens it takes in before its
            sequence, and how many it lets go at the end, both as text.
        streams: What the graphs of the call at hand made for others, by slot name.
        terms: Penalties of the last call in training, by adapter and placement.
    """

    def __init__(
        self,
        root: nn.Module,
        rewrite: Callable[[Rewriting], None],
        *,
        inner: str | Callable[..., Any],
        recompile_limit: int = RECOMPILE_LIMIT,
    ) -> None:
        self.root, self.rewrite, self.inner = root, rewrite, inner
        self.recompile_limit = recompile_limit
        self.records: dict[str, AdapterRecord] = {}
        self.active: tuple[str, ...] = ()
        self.enabled, self.inside, self.variant, self.guarded = True, False, "", ""
        self.serials: dict[str, str] = {}
        self._additions = self._changes = 0
        self.inputs: dict[str, Tensor] = {}
        self.given: dict[str, Tensor] = {}
        self.rooms: dict[str, tuple[str, str]] = {}
        self.streams: dict[str, Tensor] = {}
        self.terms: dict[str, Tensor] = {}
        self.backend = GraphBackend(self)
        self._was_trainable = {n: p.requires_grad for n, p in root.named_parameters()}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Adapted":
        """A copy for the copied model; what was compiled for this one stays with this one."""
        root = copy.deepcopy(self.root, memo)
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        twin = object.__new__(Adapted)
        memo[id(self)] = twin
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k != "experts"})
        twin.root, twin.records, twin.serials = root, dict(self.records), dict(self.serials)
        twin.inside, twin.inputs, twin.given = False, dict(self.inputs), {}
        twin.rooms, twin.streams, twin.terms = {}, {}, {}
        twin.backend = GraphBackend(twin)
        return twin

    def __reduce__(self) -> Any:
        raise PeftError(
            "an adapted model cannot be pickled: what is compiled for it stays in this process",
            code="R509",
            help="use peftlang.save(model, folder), or torch.save(model.state_dict(), file)",
        )

    @cached_property
    def experts(self) -> list[Any]:
        """The configurations that say how the model's experts run."""
        return experts_of(self.root)

    @property
    def switched_on(self) -> bool:
        return self.enabled and bool(self.active)

    @property
    def store(self) -> nn.ModuleDict:
        found = self.root._modules[STORE]
        assert isinstance(found, nn.ModuleDict)
        return found

    def tensors(self, name: str) -> AdapterTensors:
        found = self.store[name]
        assert isinstance(found, AdapterTensors)
        return found

    def add(self, name: str, record: AdapterRecord, tensors: AdapterTensors) -> None:
        """Put an adapter on the model, and let it act besides those that do already."""
        if STORE not in self.root._modules:
            self.root.add_module(STORE, nn.ModuleDict())
        self.store[name] = tensors
        tensors.train(self.root.training)
        self.records[name] = record
        self._additions += 1
        self.serials[name] = f"{name}#{self._additions}"
        for path in door_paths(self.root, record.plan):
            self._changes += open_door(self.root.get_submodule(path), self, path)
        prepare_generation(self)
        self.activate((*self.active, name))

    def remove(self, name: str) -> None:
        """Take an adapter off the model; with the last one the model is as it was."""
        self.require(name)
        self.activate(tuple(n for n in self.active if n != name))
        del self.store[name]
        del self.records[name]
        self.backend.forget(self.serials.pop(name))
        needed = {p for r in self.records.values() for p in door_paths(self.root, r.plan)}
        for path, module in self.root.named_modules():
            if DOOR in module.__dict__ and path not in needed:
                close_door(module)
                self._changes += 1
        self._set_variant(self.variant)
        prepare_generation(self)
        if not self.records:
            del self.root._modules[STORE]
            del self.root.__dict__[STATE]
            for parameter_name, parameter in self.root.named_parameters():
                parameter.requires_grad_(self._was_trainable.get(parameter_name, True))

    def activate(self, names: Iterable[str]) -> None:
        """Let exactly these adapters act, in this order.

        Raises:
            PeftError: R504, there is no adapter of that name.
        """
        chosen = tuple(dict.fromkeys(names))
        for name in chosen:
            self.require(name)
        self.active = chosen
        self._set_variant("+".join(self.serials[name] for name in chosen))

    def _set_variant(self, variant: str) -> None:
        self.variant = variant
        self.guarded = f"{self._changes}" if self.inner == "eager" else f"{self._changes}+{variant}"

    def require(self, name: str) -> AdapterRecord:
        """The adapter of that name, or R504."""
        if name not in self.records:
            raise PeftError(
                f"the model has no adapter `{name}`",
                code="R504",
                help=did_you_mean(name, self.records) or "it has " + ", ".join(self.records),
            )
        return self.records[name]

    def active_plans(self) -> tuple[ActivePlan, ...]:
        return tuple(ActivePlan(name, self.records[name].plan) for name in self.active)

    def active_sites(self) -> dict[str, Site]:
        """Every site that the active adapters use."""
        return {k: s for n in self.active for k, s in self.records[n].plan.concerned.items()}

    def active_parameters(self) -> set[str]:
        """Parameters of the base by which the active adapters' sites are known, or that train."""
        plans = [self.records[name].plan for name in self.active]
        found = {name for plan in plans for name in plan.train}
        return found.union(*(site_parameters(s) for p in plans for s in p.concerned.values()))

    def owned_by(self, path: str) -> list[str]:
        """Sites of the active adapters, and parameters that they train, of one module itself."""
        plans = [self.records[name].plan for name in self.active]
        found = [
            site.id
            for plan in plans
            for site in plan.concerned.values()
            if site.role != "prompt" and path in {site.path, owner_of(site.weight or "?.")}
        ]
        return found + [n for plan in plans for n in plan.train if owner_of(n) == path]

    def declared_inputs(self) -> dict[str, tuple[InputDef, dict[str, int]]]:
        """Inputs of the active adapters by name, with the sizes of their hyper-parameters."""
        found: dict[str, tuple[InputDef, dict[str, int]]] = {}
        for name in self.active:
            for use in self.records[name].plan.uses.values():
                sizes = {k: v for k, v in use.args.items() if isinstance(v, int)}
                found.update({entry.name: (entry, sizes) for entry in use.method.inputs})
        return found

    def checked_inputs(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """``values`` as tensors that fit what the active adapters declare, or R512."""
        return checked(self, values)

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter is."""
        return next(self.root.parameters()).device

    def names(self) -> ModelNames:
        """Names of the base's own objects, adapters left out."""
        return ModelNames.of(self.root)

    def slot(self, name: str) -> Tensor:
        """Current value of one slot.

        Raises:
            PeftError: R503, it is an input that the caller has not supplied.
        """
        if name.startswith("input."):
            key = name.removeprefix("input.")
            if key not in self.inputs:
                raise missing_input(key)
            return self.inputs[key]
        if name.startswith(STREAM):
            if name not in self.streams:
                raise not_made(name)
            return self.streams[name]
        if name.startswith("+"):
            return self.given[name]
        adapter, _, group = name.partition(".")
        return self.tensors(adapter).tensor(group)

    def receive(self, name: str, value: Tensor) -> None:
        """Take what a graph made besides its own outputs."""
        if not name.startswith(PENALTY):
            self.streams[name] = value
            return
        key = name.removeprefix(PENALTY)
        self.terms[key] = self.terms[key] + value if key in self.terms else value

    def reader(self, name: str) -> Callable[[], Tensor]:
        """A function that gives the current value of a slot; quick, for every call."""
        adapter, _, group = name.partition(".")
        if adapter not in self.records:
            return lambda: self.slot(name)
        tensors = self.tensors(adapter)
        return lambda: tensors.tensor(group)

    def training(self, path: str) -> bool:
        """Whether the module that owns a site is in training mode."""
        return self.root.get_submodule(path).training

    def run(
        self, door: Door, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call from plain Python through a door."""
        with before_call(self, door, module, args, kwargs) as call, self._running():
            result = door.compiled(self.recompile_limit, module, *call.args, **call.kwargs)
            return call.finish(result)

    @contextmanager
    def _running(self) -> Iterator[None]:
        before, self.inside = self.inside, True
        try:
            with at_once(self.experts, loops_only=True):
                yield
        finally:
            self.inside = before

    @contextmanager
    def giving(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Hold values of this call; calls that have others are compiled apart."""
        before = self.given, self.variant
        self.given = {**self.given, **values}
        self._set_variant("+".join((self.variant, *(name.lstrip("+") for name in values))))
        try:
            yield
        finally:
            self.given, variant = before
            self._set_variant(variant)

    @contextmanager
    def supplied(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Supply inputs for the calls inside."""
        before = self.inputs
        self.inputs = {**before, **values}
        try:
            yield
        finally:
            self.inputs = before


def not_made(slot: str) -> PeftError:
    """The error for a graph that reads what no graph of the same call has made."""
    _, _, what = slot.partition(".")
    return PeftError(
        f"the value `{what}` of another site is not there: no earlier part of this call made it",
        code="R521",
        help="a tap or a carried state lives within one call: call the whole model, rather than "
        "one part of it; an encoder that `generate` runs by itself is a call of its own",
    )


def missing_input(name: str) -> PeftError:
    """The error for a call without a value that the adapter needs."""
    return PeftError(
        f"the adapter needs `{name}`, which this call does not supply",
        code="R503",
        help=f"pass {name}=... to the model, or use `with peftlang.inputs(model, {name}=...):`",
    )


def site_parameters(site: Site) -> set[str]:
    """Parameters of the base that a site names."""
    return {*site.anchors, *filter(None, (site.weight, site.bias))}


def owner_of(parameter: str) -> str:
    """Path of the module that has a parameter of this name."""
    return parameter.rpartition(".")[0]


def door_paths(root: nn.Module, plan: Plan) -> set[str]:
    """The modules through which a call can reach a site of the plan: owners and all above."""
    owners = {site.path for site in plan.concerned.values()}
    for site in plan.concerned.values():
        owners |= {owner_of(name) for name in site_parameters(site)}
    owners |= {owner_of(name) for name in plan.train}
    paths = {""}
    for owner in owners:
        parts = owner.split(".") if owner else []
        paths |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return {path for path in paths if _has_forward(root.get_submodule(path))}


def _has_forward(module: nn.Module) -> bool:
    """A list or dictionary of modules is no door: nothing can call it."""
    return not isinstance(module, (nn.ModuleList, nn.ModuleDict))


def of(model: nn.Module) -> Adapted:
    """The adapters of a model.

    Raises:
        PeftError: R505, the model has none.
    """
    found = model.__dict__.get(STATE)
    if not isinstance(found, Adapted):
        raise PeftError(
            f"this {type(model).__name__} has no adapter",
            code="R505",
            help="adapt it first: peftlang.compile(model, spec)",
        )
    return found


def freeze(root: nn.Module) -> None:
    """Nothing of the base trains; adapters bring what does."""
    for name, parameter in root.named_parameters():
        if not name.startswith(f"{STORE}."):
            parameter.requires_grad_(False)
