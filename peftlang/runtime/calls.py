"""One call of an adapted model: what happens at each of its modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from peftlang.capture import record
from peftlang.capture.storage import device_of, packed
from peftlang.prompts.sequences import forward_of, named
from peftlang.regions.program import Program
from peftlang.runtime.acting import Acting
from peftlang.runtime.call import (
    Begun,
    Call,
    current,
    in_backward,
    in_checkpoint,
    innermost,
    is_read,
    keep_with,
    recalled,
    remember,
    scope_of,
    supplied_to,
)
from peftlang.runtime.dispatch import Dispatch
from peftlang.runtime.entry import Entry
from peftlang.runtime.inputs import checked
from peftlang.runtime.parts import Operation, Part
from peftlang.runtime.programs import as_graph, program, replacing
from peftlang.runtime.running import Read, Run, argument, described, hand_on, inner, places
from peftlang.runtime.seams import At, Seams, Seen, is_open, tensors_of, unseen
from peftlang.runtime.sentinel import check
from peftlang.runtime.values import Values
from peftlang.runtime.watched import Watched
from peftlang.runtime.whole import Recorded, decisions, form_of

Own = Callable[..., Any]
"""A module's own forward."""


class Calls:
    """Runs a model's modules with what the adapters say.

    Attributes:
        values: Where values come from.
        acting: Gives what acts where these adapters do; for None those of the model's default.
        save: Writes the adapters to a folder.
    """

    def __init__(
        self,
        values: Values,
        acting: Callable[[tuple[str, ...] | None], Acting | None],
        save: Callable[[str, Mapping[str, Tensor] | None], None],
    ) -> None:
        self.values, self.acting, self.save = values, acting, save

    def run(
        self, dispatch: Dispatch, module: nn.Module, own: Own, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """One call of one of the model's modules."""
        call = current(self)
        if call is None and in_backward():
            call = recalled(self, dispatch.path, (*args, *kwargs.values()))
            if call is not None:
                with Begun(call):
                    return self._inside(call, dispatch, module, own, args, kwargs)
        if call is None:
            acting = self.acting(scope_of(self))
            if acting is None:
                return own(*args, **kwargs)
            call = Call(self, acting, innermost())
            return self._entered(call, dispatch, module, own, args, kwargs)
        return self._inside(call, dispatch, module, own, args, kwargs)

    def _entered(
        self,
        call: Call,
        dispatch: Dispatch,
        module: nn.Module,
        own: Own,
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
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
        if call.gradient:
            keep_with(result, call)
        return result

    def _inside(
        self,
        call: Call,
        dispatch: Dispatch,
        module: nn.Module,
        own: Own,
        args: Any,
        kwargs: dict[str, Any],
    ) -> Any:
        """The module is called in a call that is under way."""
        if call.acting.inputs:
            kwargs = self._without_inputs(call, kwargs)
        if call.gradient and in_checkpoint():
            remember(call, dispatch.path, (*args, *kwargs.values()))
        if call.frames:
            call.frames[-1].add(dispatch.path)
        call.used.add(dispatch.path)
        call.frames.append(set())
        running = dispatch.path in call.running
        call.running.add(dispatch.path)
        try:
            if is_open(dispatch.path):
                result = self._here(call, dispatch.path, module, own, args, kwargs)
            else:
                with unseen():
                    result = self._here(call, dispatch.path, module, own, args, kwargs)
            ran = call.frames[-1]
        finally:
            call.frames.pop()
            if not running:
                call.running.discard(dispatch.path)
        check(call, dispatch, module, ran)
        return result

    def _here(
        self, call: Call, path: str, module: nn.Module, own: Own, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        part = call.acting.parts.get(path)
        if call.acting.whole is not None and not path:
            return self._as_graph(call, module, args, kwargs)
        if part is None:
            return own(*args, **kwargs)
        return _At(self.values, call, part, module)(own, args, kwargs)

    def _without_inputs(self, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
        given = {k: v for k, v in kwargs.items() if k in call.acting.inputs}
        if given:
            device = device_of(self.values.root)
            call.inputs = {**call.inputs, **checked(call.acting.inputs, given, device)}
            kwargs = {k: v for k, v in kwargs.items() if k not in given}
        return kwargs

    def _as_graph(self, call: Call, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
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
        read, own = self.values.reader(call), found.code.constants
        values = [own[slot] if slot in own else read(slot) for slot in found.code.slots]
        result, *exported = found.code.run(*values, *tensors)
        for slot, value in zip(found.code.exported, exported, strict=True):
            hand_on(call, slot, value)
        return found.result(result)

    def weight(self, call: Call, dispatch: Dispatch, name: str, own: Callable[[], Any]) -> Any:
        """What is read in the place of a module's own parameter; None for that itself."""
        running = call.weights.get(dispatch.path)
        if running is not None and name in running:
            return running[name]
        trained = call.acting.trained.get((dispatch.path, name))
        if trained is not None:
            return self.values.reader(call)(trained)
        if running is None and dispatch.path not in call.running:
            if is_read():
                # What is read is taken to be used, since nothing that is traced can be watched.
                call.used.add(dispatch.path)
                return None
            value = own()
            # One of another class (quantised, in shards) would lose what it has in being watched.
            if type(value) in {Tensor, nn.Parameter}:
                return Watched.of(value, lambda: call.used.add(dispatch.path))
        return None


class _At:
    """One call of a module at which something is done.

    Args:
        values: Where values come from.
        call: The call of the model.
        part: What is done.
        module: The module.
    """

    def __init__(self, values: Values, call: Call, part: Part, module: nn.Module) -> None:
        self._call, self._part, self._module = call, part, module
        self._read: Read = values.reader(call)
        self._split = values.split
        self._given = self._known()

    def _known(self) -> str:
        """What is known of the call, as far as it matters here."""
        call, given = self._call, self._call.key
        for name in self._part.starting:
            if name in call.values:
                given = f"{given}|{name}"
        for name, path in self._part.only_in.items():
            if path not in call.running:
                given = "|".join(known for known in given.split("|") if known != name)
        return given

    def __call__(self, own: Own, args: Any, kwargs: dict[str, Any]) -> Any:
        call, part = self._call, self._part
        with unseen():
            now = program(call.acting, part, self._module, self._given, args, kwargs)
        run = Run(call, self._read, self._split, args, kwargs)
        run.keep(now)
        weights: dict[str, Tensor] = {}
        if now.before is not None:
            run.piece(now.before)
            weights = {s.name.rpartition(".")[2]: call.values.pop(s.key) for s in now.weights}
        for border in part.recorded:
            if border.side == "in":
                value = argument(run.args, run.kwargs, border.place)
                call.values[f"value:{border}"] = value if border.lasts else value.clone()
        if "weight" in weights and packed(self._module) is not None:
            own = _linear(self._module, weights)
        before = call.weights.get(part.path)
        call.weights[part.path] = weights
        try:
            self._own(own, run, now)
        finally:
            if before is None:
                del call.weights[part.path]
            else:
                call.weights[part.path] = before
        if now.after is not None:
            run.piece(now.after)
        for border in part.recorded:
            if border.side == "out":
                value = inner(run.result, border.place.path)
                call.values[f"value:{border}"] = value if border.lasts else value.clone()
        return run.result

    def _own(self, own: Own, run: Run, now: Program) -> None:
        """The module's own forward, with what is done at operations of it."""
        part = self._part
        found = places(now, run)
        if not found and not part.operations:
            run.result = own(*run.args, **run.kwargs)
            return
        replaced = {(at.name, at.number): self._replacing(at) for at in part.operations.values()}
        seams = Seams(part.path, now.asked, found, replaced, now.opened or {part.path})
        with Seen(seams), seams:
            run.result = own(*run.args, **run.kwargs)
        seams.check({at.name: at.count for at in part.operations.values()})

    def _replacing(self, at: Operation) -> At:
        def compute(function: Any, args: Any, kwargs: Any) -> Any:
            call, form = self._call, described(args, kwargs, at.folded)
            training, operands = self._module.training, (args, kwargs)
            with unseen():
                found = replacing(call.acting, at, form, training, self._given, operands)
                values = [self._read(slot) for slot in found.slots]
                result, *exported = found.run(*values, *tensors_of(args, kwargs))
            for slot, value in zip(found.exported, exported, strict=True):
                hand_on(call, slot, value)
            return result

        return compute


def _linear(module: nn.Module, weights: dict[str, Tensor]) -> Own:
    """What a packed layer computes, of another weight than the one that it has packed."""

    def forward(x: Tensor, *_: Any, **_given: Any) -> Tensor:
        bias = weights.get("bias", module._parameters.get("bias", module._buffers.get("bias")))
        weight = weights["weight"].to(x.dtype)
        return nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))

    return forward
