"""Functions that behave differently in training, or stop gradients."""

from typing import Any

from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Number
from peftlang.ir.types import Level, Type, TypeFact

BETA, GAMMA, ZETA = 2.0 / 3.0, -0.1, 1.1
"""Temperature and stretch of the hard-concrete distribution (Louizos et al. 2018, section 4)."""


def _first(call: Signature) -> Type:
    return call.types[0]


def _gates(call: Signature) -> Type:
    return call.tensor()


def _dropout_rule(call: Signature) -> Type:
    given = call.args[1]
    if not call.is_number(1):
        raise TypeFact("T209", "the probability is a number", 1)
    if isinstance(given, Number) and not (isinstance(given.value, str) or 0 <= given.value < 1):
        raise TypeFact("T212", f"the probability is {given.value:g}, not from 0 to below 1", 1)
    return call.tensor()


def _l0_rule(call: Signature) -> Type:
    if call.tensor().level is not Level.CONST:
        raise TypeFact("T209", "gates are parameters, the same for every input", 0)
    return Type()


def _detached(call: Evaluation) -> Any:
    value = call.args[0]
    return value if isinstance(value, int | float) else value.detach()


def _dropout(call: Evaluation) -> Any:
    probability = call.args[1]
    if not call.training or probability == 0:
        return call.args[0]
    return call.t.nn.functional.dropout(call.args[0], p=float(probability), training=True)


def _hard_concrete(call: Evaluation) -> Any:
    log_alpha, t = call.args[0], call.t
    if call.training:
        u = t.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
        soft = t.sigmoid((t.log(u) - t.log(1 - u) + log_alpha) / BETA)
    else:
        soft = t.sigmoid(log_alpha)
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def _expected_l0(call: Evaluation) -> Any:
    from math import log

    return call.t.sigmoid(call.args[0] - BETA * log(-GAMMA / ZETA)).sum()


TRAINING = (
    Builtin("dropout", "dropout(x, p)", "Zero each element with probability p in training, and "
            "scale the others by 1 / (1 - p); `x` itself otherwise.", (2, 2), _dropout_rule,
            _dropout, linear=(0,), zero="any", transparent=True, random=True),
    Builtin("stop_gradient", "stop_gradient(x)", "`x`, through which no gradient flows.", (1, 1),
            _first, _detached, linear=(0,), zero="all", transparent=True,
            cost=lambda c: Dim.of(0)),
    Builtin("hard_concrete", "hard_concrete(a)", "A gate in [0, 1] that is exactly 0 or 1 with "
            "positive probability; sampled in training (Louizos et al. 2018, eq. 10-12).", (1, 1),
            _gates, _hard_concrete, random=True),
    Builtin("hard_concrete_l0", "hard_concrete_l0(a)", "Expected number of gates that are not "
            "zero (Louizos et al. 2018, eq. 12).", (1, 1), _l0_rule, _expected_l0),
)  # fmt: skip
