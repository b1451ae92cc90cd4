"""Penalties: terms that a spec adds to the loss that the model returns in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peftlang.capture import Weights
from peftlang.capture.storage import device_of
from peftlang.emit.applications import Application, reads_activations
from peftlang.emit.evaluate import interpreter
from peftlang.emit.slots import Slot
from peftlang.emit.starts import base_value
from peftlang.prompts.facts import Arguments
from peftlang.runtime.call import Call
from peftlang.runtime.values import Values


def with_penalties(values: Values, call: Call, given: Arguments) -> list[Callable[[Any], Any]]:
    """What adds the active adapters' penalties to the loss of a training call of the whole model.

    Those of activations come from where they are computed; those of parameters alone are made here.
    """
    methods = [use.method for plan in call.acting.plans for use in plan.plan.uses.values()]
    if not any(method.penalties for method in methods):
        return []
    values.last_terms({})
    if not given.module.training:
        return []

    def add(result: Any) -> Any:
        terms = dict(call.terms)
        for name, value in of_parameters(values, call).items():
            terms[name] = terms[name] + value if name in terms else value
        values.last_terms(terms)
        single = [term.float() for term in terms.values()]
        return result if given.path or not single else _added(result, sum(single))

    return [add]


def of_parameters(values: Values, call: Call) -> dict[str, Tensor]:
    """Penalties of parameters alone: for each placement the sum over its sites, a scalar."""
    parameters, device = Weights(values.root), device_of(values.root)
    found: dict[str, Tensor] = {}
    for acting in call.acting.applications.values():
        for application in acting:
            own = [p for p in application.method.penalties if not reads_activations(p)]
            if not own:
                continue

            def tensor(application: Application, name: str) -> Any:
                slot = application.slot(name)
                if slot is not None:
                    return values.value(call, slot)
                if name in {"W", "b"}:
                    return base_value(application.site, name, parameters)
                return None

            evaluate = interpreter(application, {}, tensor, training=True)
            name = Slot("penalty", application.placement.label, application.adapter).key
            total = found.get(name, torch.zeros((), device=device))
            found[name] = total + sum(evaluate(penalty) for penalty in own)
    return found


def _added(result: Any, penalty: Any) -> Any:
    """The model's output with the penalty in its loss, where it has one."""
    loss = result.get("loss") if hasattr(result, "get") else getattr(result, "loss", None)
    if isinstance(loss, Tensor):
        result["loss"] = loss + penalty.to(loss)
    elif isinstance(result, tuple) and result and _is_loss(result[0]):
        return (result[0] + penalty.to(result[0]), *result[1:])
    elif _is_loss(result):
        return result + penalty.to(result)
    return result


def _is_loss(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and value.requires_grad
