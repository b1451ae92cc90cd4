"""Learning rates: the trainable parameters of a model in groups for an optimiser."""

from typing import Any

from torch import nn

from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import fixed
from peftlang.ir.plan import TRAINED, Plan
from peftlang.ir.sizes import site_sizes
from peftlang.runtime import registry as state


def parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Every trainable parameter, in one group for each learning rate.

    A method says by ``rate NAMES = value`` that tensors learn so many times as fast as the others
    (LoRA+, Hayou et al. 2024). Any optimiser takes the groups:
    ``AdamW(parameter_groups(model, lr=2e-4))``, and ``Trainer(..., optimizers=(that, None))``.

    Args:
        model: An adapted model.
        lr: The learning rate of what has none of its own; positive.

    Returns:
        Groups with ``params``, ``lr`` and ``rate``, the smallest rate first. A parameter of the
        model that no adapter made, but that requires a gradient, is in the group of rate 1.

    Raises:
        PeftError: R505, the model has no adapter.
    """
    owner = state.of(model)
    rates: dict[int, float] = {}
    for name, record in owner.records.items():
        for group, rate in _rates(record.plan).items():
            rates[id(owner.tensors(name).tensor(group))] = rate
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            found.setdefault(rates.get(id(parameter), 1.0), []).append(parameter)
    return [
        {"params": params, "lr": lr * rate, "rate": rate} for rate, params in sorted(found.items())
    ]


def _rates(plan: Plan) -> dict[str, float]:
    """The rate of every group that has one; that of its first site, where it is shared."""
    rates: dict[str, float] = {}
    for group in plan.groups.values():
        label, site = group.members[0]
        if label == TRAINED:
            continue
        use = plan.uses[label]
        method = fixed(use.method, use.args)
        rate = next(d.rate for d in method.tensors if d.name == group.tensor)
        if rate is not None:
            sizes = site_sizes(method, use.args, plan.sites[site])
            rates[group.name] = float(Interpreter(None, sizes, dict[str, Any]().__getitem__)(rate))
    return rates
