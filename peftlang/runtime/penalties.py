"""Penalties: terms that a spec adds to the loss that the model returns in training."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import fixed
from peftlang.ir.sizes import site_sizes
from peftlang.passes.flows import reads_activations
from peftlang.passes.streams import PENALTY
from peftlang.runtime.store import base_value

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted
    from peftlang.runtime.calls import Call
    from peftlang.runtime.doors import Door


def with_penalties(adapted: "Adapted", door: "Door", module: nn.Module, call: "Call") -> None:
    """Add the active adapters' penalties to the loss of a training call of the whole model.

    Those of activations come out of the graphs; those of parameters alone are computed here.
    """
    adapted.terms.clear()
    if not module.training or not _any(adapted):
        return

    def add(result: Any) -> Any:
        for name, value in of_parameters(adapted).items():
            adapted.receive(PENALTY + name, value)
        terms = [term.float() for term in adapted.terms.values()]
        return result if door.path or not terms else _added(result, sum(terms))

    call.after.append(add)


def of_parameters(adapted: "Adapted") -> dict[str, Tensor]:
    """Penalties of parameters alone, by ``adapter.label``: the sum over the sites, a scalar."""
    parameters = dict(adapted.root.named_parameters())
    found: dict[str, Tensor] = {}
    for name in adapted.active:
        plan = adapted.records[name].plan
        for placement in plan.placements:
            use = plan.uses[placement.label]
            if all(map(reads_activations, use.method.penalties)):
                continue
            method = fixed(use.method, use.args)
            total = torch.zeros((), device=adapted.device)
            for site_id in placement.sites:
                site = plan.sites[site_id]
                groups = placement.tensors[site_id]

                def lookup(key: str, site: Any = site, groups: Any = groups) -> Tensor:
                    if key in groups:
                        return adapted.tensors(name).tensor(groups[key])  # noqa: B023
                    value: Tensor = base_value(site, key, parameters)
                    return value

                sizes = site_sizes(method, placement.args, site, placement.tapped_sizes(site_id))
                interpret = Interpreter(torch, sizes, lookup, training=True)
                for penalty in method.penalties:
                    if not reads_activations(penalty):
                        total = total + interpret(penalty)
            found[f"{name}.{placement.label}"] = total
    return found


def _any(adapted: "Adapted") -> bool:
    plans = (adapted.records[name].plan for name in adapted.active)
    return any(use.method.penalties for plan in plans for use in plan.uses.values())


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
