"""The adapters of one model: which there are, which act, and what runs at each of its modules."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import is_adapters, record
from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.emit.rewriting import Rewriting
from peftlang.emit.slots import Slot
from peftlang.ir.method import InputDef
from peftlang.ir.plan import TRAINED, ActivePlan, Plan
from peftlang.prompts.sequences import forward_of, named
from peftlang.prompts.usage import asked
from peftlang.runtime import dispatch as modules
from peftlang.runtime.acting import Acting, AtOperation, Part, Replaced
from peftlang.runtime.call import (
    Begun,
    Call,
    current,
    in_backward,
    in_checkpoint,
    innermost,
    keep_with,
    recalled,
    remember,
    scope_of,
    supplied_to,
)
from peftlang.runtime.dispatch import Dispatch, Seen, own_weight
from peftlang.runtime.entry import Entry
from peftlang.runtime.holders import AdapterTensors
from peftlang.runtime.inputs import checked
from peftlang.runtime.running import (
    Run,
    argument,
    described,
    hand_on,
    inner,
    missed,
    places,
)
from peftlang.runtime.seams import At, Seams, tensors_of
from peftlang.runtime.whole import Recorded, decisions, form_of
from peftlang.sites.survey import Survey

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


class Registry:
    """The adapters of one model.

    Attributes:
        root: The model.
        records: Adapters by name, in the order in which they were added.
        active: Names of those that act, where no thread or task says otherwise.
    """

    def __init__(
        self, root: nn.Module, survey: Callable[[nn.Module], Survey],
        rewrite: Callable[[Rewriting], None],
    ) -> None:  # fmt: skip
        self.root, self.rewrite = root, rewrite
        self.records: dict[str, AdapterRecord] = {}
        self.active: tuple[str, ...] = ()
        self._terms: dict[int, dict[str, Tensor]] = {}
        self._tensors: dict[str, AdapterTensors] = {}
        self._acting: dict[tuple[str, ...], Acting] = {}
        self._find, self._survey = survey, None
        self._dispatches: dict[str, Dispatch] = {}
        self._was_trainable = {n: p.requires_grad for n, p in root.named_parameters()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Registry:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        twin = object.__new__(Registry)
        memo[id(self)] = twin
        for name, value in self.__getstate__().items():
            # Plans and functions are the same for all copies.
            shared = name in {"records", "active", "rewrite", "_find", "_was_trainable"}
            twin.__dict__[name] = copy.copy(value) if shared else copy.deepcopy(value, memo)
        twin.__setstate__({})
        twin._survey = self._survey
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """What was made for this process is made anew in another."""
        made = {"_acting", "_survey", "_terms"}
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._acting, self._survey, self._terms = {}, None, {}

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
        self.acting_of(chosen)

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

    def plans(self, names: Iterable[str] | None = None) -> tuple[ActivePlan, ...]:
        """The plans of adapters; of those that act, unless they are named."""
        chosen = self.active if names is None else names
        return tuple(ActivePlan(name=name, plan=self.records[name].plan) for name in chosen)

    def acting_of(self, names: tuple[str, ...]) -> Acting | None:
        """What some adapters do together; None for none."""
        if not names:
            return None
        if names not in self._acting:
            plans = self.plans(names)
            self._acting[names] = Acting(plans, self.survey, self.rewrite, asked(self.survey, plans))
            self._attach()
        return self._acting[names]

    def acting(self) -> Acting | None:
        """What acts now, in this thread or task."""
        names = scope_of(self)
        if names is None:
            names = self.active
        return self._acting[names] if names in self._acting else self.acting_of(names)

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
        for path in self._dispatches.keys() - weights.keys():
            self._detach(path)
        for path, names in weights.items():
            module = self.root.get_submodule(path)
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue
            known = self._dispatches.get(path)
            if known is None or not names <= set(known.weights):
                names |= set(known.weights) if known else set()
                self._dispatches[path] = Dispatch(self, path, names)
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

    # A call

    def run(
        self, dispatch: Dispatch, module: nn.Module, own: Callable[..., Any],
        args: tuple[Any, ...], kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """One call of one of the model's modules."""
        call = current(self)
        if call is None and not torch.compiler.is_compiling() and in_backward():
            call = recalled(self, dispatch.path, (*args, *kwargs.values()))
            if call is not None:
                with Begun(call):
                    return self._inside(call, dispatch, module, own, args, kwargs)
        if call is None:
            acting = self.acting()
            if acting is None:
                return own(*args, **kwargs)
            return self._entered(Call(self, acting, innermost()), dispatch, module, own, args, kwargs)
        return self._inside(call, dispatch, module, own, args, kwargs)

    def _entered(
        self, call: Call, dispatch: Dispatch, module: nn.Module, own: Callable[..., Any],
        args: tuple[Any, ...], kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """The module is where the model is entered from outside."""
        call.inputs = supplied_to(self)
        if call.acting.inputs:
            kwargs = self._without_inputs(call, kwargs)
        with Begun(call):
            if not call.acting.asks:
                result = self._inside(call, dispatch, module, own, args, kwargs)
            else:
                entry = Entry(self, call, dispatch.path, module, args, kwargs)
                with entry as given:
                    result = self._inside(call, dispatch, module, own, given.args, given.kwargs)
                    result = entry.finish(result)
        if call.gradient and not torch.compiler.is_compiling():
            keep_with(result, call)
        return result

    def _inside(
        self, call: Call, dispatch: Dispatch, module: nn.Module, own: Callable[..., Any],
        args: tuple[Any, ...], kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        if call.acting.inputs:
            kwargs = self._without_inputs(call, kwargs)
        if call.gradient and not torch.compiler.is_compiling() and in_checkpoint():
            remember(call, dispatch.path, (*args, *kwargs.values()))
        if call.frames:
            call.frames[-1].add(dispatch.path)
        call.used.add(dispatch.path)
        call.frames.append(set())
        running = dispatch.path in call.running
        call.running.add(dispatch.path)
        try:
            part = call.acting.parts.get(dispatch.path)
            if call.acting.whole is not None and not dispatch.path:
                result = self._as_graph(call, module, args, kwargs)
            elif part is None:
                result = own(*args, **kwargs)
            else:
                result = self._acted(call, part, module, own, args, kwargs)
            ran = call.frames[-1]
        finally:
            call.frames.pop()
            if not running:
                call.running.discard(dispatch.path)
        if len(ran) < len(dispatch.children):
            self._check(call, dispatch, module, ran)
        return result

    def _without_inputs(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {k: v for k, v in kwargs.items() if k in call.acting.inputs}
        if given:
            device = next(self.root.parameters()).device
            call.inputs = {**call.inputs, **checked(call.acting.inputs, given, device)}
            kwargs = {k: v for k, v in kwargs.items() if k not in given}
        return kwargs

    def _acted(
        self, call: Call, part: Part, module: nn.Module, own: Callable[..., Any],
        args: tuple[Any, ...], kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """A module's forward with what the adapters say there."""
        given = call.key
        for name in part.starting:
            if name in call.values:
                given = f"{given}|{name}"
        for name, path in part.only_in.items():
            if path not in call.running:
                given = "|".join(known for known in given.split("|") if known != name)
        program = call.acting.program(part, module.training, given)
        read = self._reader(call, module)
        run = Run(call, read, args, kwargs)
        weights: dict[str, Tensor] = {}
        if program is not None:
            run.keep(program)
            if program.before is not None:
                run.piece(program.before)
                weights = self._weights_from(call, program, part.path, module)
        for border in part.recorded:
            if border.side == "in":
                call.values[f"value:{border}"] = argument(
                    run.args, run.kwargs, border.place
                )
        replaced = [
            (at, self._replacing(call, at, module, read, given)) for at in part.operations.values()
        ]
        found = places(program, run, replaced)
        before = call.weights.get(part.path)
        call.weights[part.path] = weights
        try:
            if found:
                seams = Seams(found)
                with seams:
                    run.result = own(*run.args, **run.kwargs)
                if seams.reached < len(found):
                    raise missed(part.path, _names(part, seams.missed))
            else:
                run.result = own(*run.args, **run.kwargs)
        finally:
            if before is None:
                del call.weights[part.path]
            else:
                call.weights[part.path] = before
        if program is not None and program.after is not None:
            run.piece(program.after)
        for border in part.recorded:
            if border.side == "out":
                call.values[f"value:{border}"] = inner(run.result, border.place.path)
        return run.result

    def _as_graph(
        self, call: Call, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The model as one graph."""
        whole, inputs = call.acting.whole, dict(kwargs)
        assert whole is not None
        named(forward_of(module), args, inputs)
        key, tensors = form_of(inputs)
        key = key, module.training, call.key
        found = whole.find(key, tensors)
        if found is None:
            captured = record(module, inputs, training=module.training)
            checks, answers = decisions(captured), tuple(a for _, _, a in captured.decided)
            code = call.acting.as_graph(captured, module.training, call.key)
            found = whole.keep(key, Recorded(captured, code, checks, answers))
        read = self._reader(call, module)
        own = found.code.constants
        values = [own[slot] if slot in own else read(slot) for slot in found.code.slots]
        result, *exported = found.code.run(*values, *tensors)
        for slot, value in zip(found.code.exported, exported, strict=True):
            hand_on(call, slot, value)
        return found.result(result)

    def _reader(self, call: Call, module: nn.Module) -> Callable[[Slot], Any]:
        """What gives slots' values; each holder is called once, since its forward may bring them."""
        held: dict[int, list[Tensor]] = {}

        def read(slot: Slot) -> Any:
            if slot.kind == "tensor":
                holder, leaf = self._tensors[slot.adapter].places[slot.name]
                if id(holder) not in held:
                    held[id(holder)] = holder()
                return held[id(holder)][holder.names.index(leaf)]
            return self._value(call, slot)

        return read

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

    def adapter_tensor(self, slot: Slot) -> Tensor:
        """A tensor of an adapter."""
        return self._tensors[slot.adapter].tensor(slot.name)

    def value(self, call: Call, slot: Slot) -> Any:
        """The value of a slot in a call."""
        if slot.kind == "tensor":
            return self._tensors[slot.adapter].tensor(slot.name)
        return self._value(call, slot)

    def last_terms(self, terms: dict[str, Tensor]) -> None:
        """Keep the penalties of this thread's last call."""
        self._terms[threading.get_ident()] = terms

    @property
    def terms(self) -> dict[str, Tensor]:
        """The penalties of this thread's last call."""
        return self._terms.get(threading.get_ident(), {})

    def base_weight(self, name: str) -> Tensor:
        """A parameter of the base by name, or an adapter's copy that is trained in its place."""
        owner, _, leaf = name.rpartition(".")
        found: Tensor = getattr(self.root.get_submodule(owner), leaf)
        return found

    def _weights_from(
        self, call: Call, program: Any, path: str, module: nn.Module
    ) -> dict[str, Tensor]:
        return {slot.name.rpartition(".")[2]: call.values.pop(slot.key) for slot in program.weights}

    def _replacing(
        self, call: Call, at: AtOperation, module: nn.Module, read: Callable[[Slot], Any],
        given: str,
    ) -> At:  # fmt: skip
        def compute(function: Any, args: Any, kwargs: Any) -> Any:
            form = described(args, kwargs, at.folded)
            found = call.acting.operation(at, form, module.training, given, (args, kwargs))
            values = [read(slot) for slot in found.slots]
            result, *exported = found.run(*values, *tensors_of(args, kwargs))
            for slot, value in zip(found.exported, exported, strict=True):
                hand_on(call, slot, value)
            return result

        return compute

    def weight(self, call: Call, dispatch: Dispatch, module: nn.Module, name: str) -> Any:
        """What is read in the place of a module's own parameter; None for that itself."""
        running = call.weights.get(dispatch.path)
        if running is not None and name in running:
            return running[name]
        trained = call.acting.trained.get((dispatch.path, name))
        if trained is not None:
            tensors = self._tensors[trained.adapter]
            holder, leaf = tensors.places[trained.name]
            return holder()[holder.names.index(leaf)]
        if running is None and dispatch.path not in call.running and not torch.compiler.is_compiling():
            value = own_weight(module, name)
            if isinstance(value, Tensor):
                return Seen.of(value, lambda: call.used.add(dispatch.path))
        return None

    # The check

    def _check(
        self, call: Call, dispatch: Dispatch, module: nn.Module, ran: set[str]
    ) -> None:
        """A module ran, and some of those within did not: that is right if nothing was missed.

        A layer that was dropped, an expert without tokens, a branch not taken are no misses. That a
        module is no longer in the model, or that its weights were used past its forward, is.

        Raises:
            PeftError: R501.
        """
        for child in dispatch.children:
            if child.path in ran or not self._matters(call, child):
                continue
            relative = child.path.removeprefix(f"{dispatch.path}.") if dispatch.path else child.path
            try:
                found = module.get_submodule(relative)
            except AttributeError:
                continue
            there = modules.of(found)
            if there is None or there.registry is not self:
                raise replaced_module(child.path, type(found).__name__)
            if call.used & call.acting.anchored.get(child.path, set()):
                raise used_past(child.path)

    def _matters(self, call: Call, dispatch: Dispatch) -> bool:
        inside = f"{dispatch.path}."
        return dispatch.path in call.acting.parts or any(
            path.startswith(inside) for path in call.acting.parts
        )


def _names(part: Part, indices: list[int]) -> str:
    names = [at.name for at in part.operations.values()]
    return ", ".join(names) or "an operation of its own"


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


def replaced_module(path: str, kind: str) -> PeftError:
    """The error for a module that is another than the one that was adapted."""
    return PeftError(
        f"`{path}` is another module now ({kind}) than the one that was adapted, so its adapter did "
        "not act",
        code="R501",
        help="replace modules before peftlang.compile; or remove the adapter, and adapt the model "
        "as it is now",
    )


def used_past(path: str) -> PeftError:
    """The error for weights that are used past the forward of the module that has them."""
    return PeftError(
        f"the weights of `{path}` were used without its forward, so its adapter did not act",
        code="R501",
        help="call the module; a fused kernel does so when told to: "
        "torch.backends.mha.set_fastpath_enabled(False)",
    )


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
    for name, parameter in root.named_parameters():
        if not is_adapters(name):
            parameter.requires_grad_(False)
