"""One call of an adapted model: what happens at each of its modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import record
from peftlang.emit.slots import Slot
from peftlang.prompts.sequences import forward_of, named
from peftlang.runtime.acting import Acting
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
from peftlang.runtime.inputs import checked
from peftlang.runtime.parts import Operation, Part
from peftlang.runtime.programs import as_graph, program, replacing
from peftlang.runtime.running import Run, argument, described, hand_on, inner, missed, places
from peftlang.runtime.seams import At, Seams, Unseen, tensors_of
from peftlang.runtime.sentinel import check
from peftlang.runtime.values import Values
from peftlang.runtime.whole import Recorded, decisions, form_of


class Calls:
    """Runs a model's modules with what the adapters say.

    Attributes:
        values: Where values come from.
        acting: Gives the adapters that act where no thread or task says otherwise, or those named.
    """

    def __init__(
        self, values: Values, acting: Callable[[tuple[str, ...] | None], Acting | None]
    ) -> None:
        self.values, self.acting = values, acting

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
            acting = self.acting(scope_of(self))
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
                entry = Entry(self.values, call, dispatch.path, module, args, kwargs)
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
            check(call, dispatch, module, ran)
        return result

    def _without_inputs(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {k: v for k, v in kwargs.items() if k in call.acting.inputs}
        if given:
            device = next(self.values.root.parameters()).device
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
        with Unseen():
            now = program(call.acting, part, module.training, given)
        read = self.values.reader(call)
        run = Run(call, read, args, kwargs)
        weights: dict[str, Tensor] = {}
        run.keep(now)
        if now.before is not None:
            run.piece(now.before)
            weights = {s.name.rpartition(".")[2]: call.values.pop(s.key) for s in now.weights}
        for border in part.recorded:
            if border.side == "in":
                call.values[f"value:{border}"] = argument(
                    run.args, run.kwargs, border.place
                )
        replaced = [
            (at, _replacing(call, at, module, read, given)) for at in part.operations.values()
        ]
        found = places(now, run, replaced)
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
        if now.after is not None:
            run.piece(now.after)
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
            code = as_graph(call.acting, captured, module.training, call.key)
            found = whole.keep(key, Recorded(captured, code, checks, answers))
        read = self.values.reader(call)
        own = found.code.constants
        values = [own[slot] if slot in own else read(slot) for slot in found.code.slots]
        result, *exported = found.code.run(*values, *tensors)
        for slot, value in zip(found.code.exported, exported, strict=True):
            hand_on(call, slot, value)
        return found.result(result)

    def weight(self, call: Call, dispatch: Dispatch, module: nn.Module, name: str) -> Any:
        """What is read in the place of a module's own parameter; None for that itself."""
        running = call.weights.get(dispatch.path)
        if running is not None and name in running:
            return running[name]
        trained = call.acting.trained.get((dispatch.path, name))
        if trained is not None:
            return self.values.reader(call)(trained)
        if running is None and dispatch.path not in call.running:
            if torch.compiler.is_compiling():
                # What is read is taken to be used, since nothing that is traced can be watched.
                call.used.add(dispatch.path)
                return None
            value = own_weight(module, name)
            if isinstance(value, Tensor):
                return Seen.of(value, lambda: call.used.add(dispatch.path))
        return None


def _replacing(
    call: Call, at: Operation, module: nn.Module, read: Callable[[Slot], Any],
    given: str,
) -> At:  # fmt: skip
    def compute(function: Any, args: Any, kwargs: Any) -> Any:
        form = described(args, kwargs, at.folded)
        with Unseen():
            found = replacing(call.acting, at, form, module.training, given, (args, kwargs))
            values = [read(slot) for slot in found.slots]
            result, *exported = found.run(*values, *tensors_of(args, kwargs))
        for slot, value in zip(found.exported, exported, strict=True):
            hand_on(call, slot, value)
        return result

    return compute


def _names(part: Part, indices: list[int]) -> str:
    names = [at.name for at in part.operations.values()]
    return ", ".join(names) or "an operation of its own"
