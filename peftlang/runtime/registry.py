"""The adapters of one model: which there are, and which act."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peftlang.capture import base_parameters, is_adapters
from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.emit.slots import Slot
from peftlang.ir.plan import ActivePlan, Plan
from peftlang.prompts.usage import asked
from peftlang.runtime import dispatch as modules
from peftlang.runtime.acting import Acting, Rewrite
from peftlang.runtime.calls import Calls
from peftlang.runtime.dispatch import Dispatch
from peftlang.runtime.holders import AdapterTensors
from peftlang.runtime.values import Values
from peftlang.sites.survey import Survey

STATE = "_peftlang"


@dataclass(frozen=True)
class AdapterRecord:
    """One adapter on a model.

    Attributes:
        plan: What goes where.
        seed: Seed of its tensors.
        without: Names of passes that are left out where it acts.
    """

    plan: Plan
    seed: int
    without: tuple[str, ...] = ()


class Registry:
    """The adapters of one model.

    Attributes:
        root: The model.
        records: Adapters by name, in the order in which they were added.
        active: Names of those that act, where no thread or task says otherwise.
    """

    def __init__(
        self,
        root: nn.Module,
        survey: Callable[[nn.Module], Survey],
        rewrite: Rewrite,
        write: Callable[[Registry, str, Mapping[str, Tensor] | None], None],
    ) -> None:
        self.root, self.rewrite, self._write = root, rewrite, write
        self.records: dict[str, AdapterRecord] = {}
        self.active: tuple[str, ...] = ()
        self._tensors: dict[str, AdapterTensors] = {}
        self._acting: dict[tuple[str, ...], Acting] = {}
        self._values = Values(root, self._tensors)
        self._calls = Calls(self._values, self.acting, self.save)
        self._find = survey
        self._survey: Survey | None = None
        self._dispatches: dict[str, Dispatch] = {}
        self._was_trainable = {n: p.requires_grad for n, p in root.named_parameters()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Registry:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        twin = object.__new__(Registry)
        memo[id(self)] = twin
        for name, value in self.__getstate__().items():
            # Plans and functions are the same for all copies.
            shared = name in {"records", "active", "rewrite", "_find", "_write", "_was_trainable"}
            twin.__dict__[name] = copy.copy(value) if shared else copy.deepcopy(value, memo)
        twin.__setstate__({})
        twin._survey = self._survey
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """What was made for this process is made anew in another."""
        made = {"_acting", "_survey"}
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._acting, self._survey = {}, None

    @property
    def survey(self) -> Survey:
        """Where the model's sites run."""
        if self._survey is None:
            self._survey = self._find(self.root)
        return self._survey

    def surveyed(self, survey: Survey) -> None:
        """Take over what is known of the model's sites."""
        self._survey = survey

    # Which adapters

    def add(self, name: str, record: AdapterRecord, tensors: AdapterTensors) -> None:
        """Put an adapter on the model, and let it act besides those that do already."""
        self.records[name], self._tensors[name] = record, tensors
        tensors.attach()
        self.activate((*self.active, name))

    def remove(self, name: str) -> None:
        """Take an adapter off the model; with the last one the model is as it was."""
        self.require(name)
        self.active = tuple(n for n in self.active if n != name)
        self._tensors.pop(name).detach()
        del self.records[name]
        self._acting = {k: v for k, v in self._acting.items() if name not in k}
        self.acting(self.active)
        self._attach()
        if not self.records:
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
        self.acting(chosen)

    def require(self, name: str) -> AdapterRecord:
        """The adapter of that name, or R504."""
        if name not in self.records:
            raise PeftError(
                f"the model has no adapter `{name}`",
                code="R504",
                help=did_you_mean(name, self.records) or "it has " + ", ".join(self.records),
            )
        return self.records[name]

    def tensors(self, name: str) -> AdapterTensors:
        """The tensors of an adapter."""
        return self._tensors[name]

    def tensor(self, slot: Slot) -> Tensor:
        """A tensor of an adapter, by its slot."""
        return self._tensors[slot.adapter].tensor(slot.name)

    def value(self, slot: Slot) -> Tensor:
        """The numbers of an adapter's tensor, all of them, by its slot."""
        return self._tensors[slot.adapter].value(slot.name)

    def plans(self, names: Iterable[str] | None = None) -> tuple[ActivePlan, ...]:
        """The plans of adapters; of those that act, unless they are named."""
        chosen = self.active if names is None else names
        found = ((name, self.records[name]) for name in chosen)
        return tuple(ActivePlan(name=n, plan=r.plan, without=r.without) for n, r in found)

    def acting(self, names: tuple[str, ...] | None = None) -> Acting | None:
        """What some adapters do together, or those that act by default; None for none.

        From the first time that they are asked for, the modules that concern them ask what runs.
        """
        if names is None:
            names = self.active
        if not names:
            return None
        if names not in self._acting:
            plans = self.plans(names)
            self._acting[names] = Acting(
                plans, self.survey, self.rewrite, asked(self.survey, plans)
            )
            self._attach()
        return self._acting[names]

    def save(self, folder: str, state: Mapping[str, Tensor] | None = None) -> None:
        """Write all adapters to a folder.

        Args:
            folder: Where to.
            state: The model's state dict, where its tensors are gathered from several processes.
        """
        self._write(self, folder, state)

    @property
    def calls(self) -> Calls:
        """What runs the model's modules."""
        return self._calls

    @property
    def terms(self) -> dict[str, Tensor]:
        """The penalties of this thread's last call."""
        return self._values.terms

    # Which modules

    def _attach(self) -> None:
        """Let the modules that concern an adapter, and those around them, ask what runs there."""
        weights: dict[str, set[str]] = {"": set()} if self._acting else {}
        for acting in self._acting.values():
            for path in {*acting.parts, *(p for each in acting.anchored.values() for p in each)}:
                parts = path.split(".") if path else []
                for count in range(len(parts) + 1):
                    weights.setdefault(".".join(parts[:count]), set())
                weights[path] |= self._weights_of(path)
            for path, part in acting.parts.items():
                if part.within or part.operations:
                    for inner in _inside(self.root.get_submodule(path), path):
                        weights.setdefault(inner, set())
        for path in self._dispatches.keys() - weights.keys():
            self._detach(path)
        for path, names in weights.items():
            module = self.root.get_submodule(path)
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue
            known = self._dispatches.get(path)
            if known is None or not names <= set(known.weights):
                names |= set(known.weights) if known else set()
                self._dispatches[path] = Dispatch(self._calls, path, names)
                modules.attach(module, self._dispatches[path])
        self._nest()

    def _detach(self, path: str) -> None:
        dispatch = self._dispatches.pop(path)
        for module in self.root.modules():
            if modules.of(module) is dispatch:
                modules.detach(module)

    def _weights_of(self, path: str) -> set[str]:
        """Names of a module's own parameters, which are changed, or whose use elsewhere matters."""
        module = self.root.get_submodule(path)
        return {name for name, value in module._parameters.items() if value is not None}

    def _nest(self) -> None:
        inside: dict[str, list[Dispatch]] = {path: [] for path in self._dispatches}
        for path, dispatch in self._dispatches.items():
            around = path
            while around:
                around = around.rpartition(".")[0]
                if around in inside:
                    inside[around].append(dispatch)
                    break
        for path, found in inside.items():
            self._dispatches[path].children = tuple(found)


def _inside(module: nn.Module, path: str) -> Iterator[str]:
    """Paths of the modules inside of a module, whose operations are told from its own."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if not is_adapters(inner):
            yield inner
            yield from _inside(child, inner)


def find(model: nn.Module) -> Registry | None:
    """The adapters of a model, if it has any."""
    found = model.__dict__.get(STATE)
    return found if isinstance(found, Registry) else None


def of(model: nn.Module) -> Registry:
    """The adapters of a model.

    Raises:
        PeftError: R505, the model has none.
    """
    found = find(model)
    if found is None:
        raise PeftError(
            f"this {type(model).__name__} has no adapter",
            code="R505",
            help="adapt it first: peftlang.compile(model, spec)",
        )
    return found


def freeze(root: nn.Module) -> None:
    """Nothing of the base trains; adapters bring what does."""
    for parameter in base_parameters(root).values():
        parameter.requires_grad_(False)
