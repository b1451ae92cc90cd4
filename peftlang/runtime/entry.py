"""Where an adapted model is entered from outside: what a call begins and ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.emit.applications import Application
from peftlang.emit.evaluate import interpreter
from peftlang.emit.tokens import filled_slot
from peftlang.ir.soft_tokens import Entry as Soft
from peftlang.prompts.arguments import lengthened
from peftlang.prompts.facts import Arguments, token_facts
from peftlang.prompts.places import FIRST_SOFT_ID, fillers, put_before, ready_slot
from peftlang.runtime.call import Call
from peftlang.runtime.inputs import check_rows
from peftlang.runtime.penalties import with_penalties
from peftlang.runtime.values import Values


class Entry:
    """A call on its way into a model, and out of it.

    Args:
        values: Where values come from.
        call: The call.
        path: The module that is called.
        module: That module.
        args: Its arguments.
        kwargs: Those given by name.
    """

    def __init__(
        self,
        values: Values,
        call: Call,
        path: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._values, self._call = values, call
        self.given = Arguments(values.root, path, module, args, dict(kwargs))
        self._after: list[Callable[[Any], Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Arguments:
        """Before the module's forward: its arguments."""
        call, given, plans = self._call, self.given, self._call.acting.plans
        check_rows(call.inputs, (*given.args, *given.kwargs.values()))
        made = lengthened(given, plans, self._embeddings, self._after)
        call.give(self._stack.enter_context(made))
        call.give(token_facts(given, plans))
        self._after += with_penalties(self._values, call, given)
        return given

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def finish(self, result: Any) -> Any:
        """Behind the module's forward: what the caller gets."""
        for step in reversed(self._after):
            result = step(result)
        return result

    # Soft tokens before embeddings that the caller gives

    def _embeddings(self, found: Sequence[Soft], embeds: Tensor) -> Tensor:
        """Soft tokens as the model's embedding gives them out: scaled, where it scales."""
        call, side, site = self._call, found[0].site.sequence, found[0].site
        rows, count = embeds, sum(entry.count for entry in found)
        for entry in found:
            if entry.site.layer is None:
                rows = self._evaluated(entry, rows)
            else:
                rows = put_before(fillers(rows, entry.count), rows)
        reserved = sum(entry.count for entry in found if entry.site.layer is not None)
        front = rows[:, reserved : rows.shape[1] - embeds.shape[1]]
        made_by = next(e.site for e in found if e.site.layer is None)
        module = self._values.root.get_submodule(call.acting.path_of(made_by.id))
        ids = FIRST_SOFT_ID - torch.arange(count, device=embeds.device)
        before, running, used = dict(call.given), site.path in call.running, set(call.used)
        call.running.add(site.path)
        call.give({filled_slot(side).key: front, ready_slot(side).key: front})
        try:
            made: Tensor = module(ids.expand(embeds.shape[0], count))
        finally:
            call.given, call.used = before, used
            call.give({})
            if not running:
                call.running.discard(site.path)
        return made

    def _evaluated(self, entry: Soft, rows: Tensor) -> Tensor:
        acting = self._call.acting.applications[entry.site.id]
        (own,) = (
            a for a in acting if (a.adapter, a.placement.label) == (entry.adapter, entry.label)
        )

        def tensor(application: Application, name: str) -> Any:
            slot = application.slot(name)
            return None if slot is None else self._values.value(self._call, slot)

        training = self._values.root.training
        evaluate = interpreter(own, {"h": rows}, tensor, training=training)
        for composition in own.method.compositions:
            made = evaluate(composition.value)
            rows = made if made.dim() == 3 else made.expand(rows.shape[0], *made.shape[-2:])
        return rows
