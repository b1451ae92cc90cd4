"""fold: changes of hidden states become changes of weights, wherever that is the same thing.

Requires: a resolved plan, the base's weights, the adapters' tensors. Ensures: every site either
has new weights with which the base alone computes what it computed with the adapters (in eval
mode), or a reason why there are none.

No method has a rule of its own. Where analysis shows that a site's output is affine in its input,
the site as a function of its input is evaluated on zero and on the unit vectors, and that is the
new bias and the new weight.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from peftlang.emit.applications import Application, applications
from peftlang.emit.by_weight import Job, by_weight
from peftlang.emit.evaluate import (
    Finding,
    Operands,
    Values,
    change_operands,
    change_results,
    interpreter,
)
from peftlang.emit.experts import with_changes
from peftlang.emit.rows import scattered, select
from peftlang.emit.slots import Slot
from peftlang.ir.builtins.site import AtSite, Tokens
from peftlang.ir.expr import Number, names
from peftlang.ir.interpret import Interpreter
from peftlang.ir.linearity import Degree, dependence
from peftlang.ir.plan import TRAINED, ActivePlan, Site
from peftlang.ir.positions import PROJECTIONS
from peftlang.ir.reach import asking, reads
from peftlang.sites.neighbours import Neighbours


@dataclass(frozen=True)
class Unfoldable:
    """A site whose change is no change of weights, and why."""

    site: Site
    method: str
    reason: str


@dataclass
class Folded:
    """New values of base parameters, and the sites that could not be folded.

    ``rounding`` is the largest difference between each value as computed and as stored.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    refused: list[Unfoldable] = field(default_factory=list)
    rounding: dict[str, float] = field(default_factory=dict)


class _Refusal(Exception):
    """Why one site cannot be folded."""


def fold(
    active: Iterable[ActivePlan],
    parameters: Mapping[str, Tensor],
    slot: Callable[[Slot], Tensor],
    neighbours: Neighbours,
    tied: Mapping[str, tuple[str, ...]] | None = None,
) -> Folded:
    """Compute the weights of a plain base that does what the adapted one does in eval mode.

    Args:
        active: The adapters that act, in order.
        parameters: The base's parameters by name.
        slot: The adapters' tensors.
        neighbours: Which projections stand next to sites without weights.
        tied: For each parameter that several modules share, those modules' paths.

    Returns:
        New parameters, in the base's number types, computed in float64; and what was refused.
    """
    active = list(active)
    state = _State(parameters, slot, tied or {})
    for adapter in active:
        for name in adapter.plan.train:
            state.put(name, slot(Slot("tensor", f"{TRAINED}.{name}", adapter.name)))
    work = by_weight(applications(active), neighbours)
    for group in work:
        _fold_group(group, state)
    return Folded(state.finished(), state.refused, state.rounding())


class _State:
    """Weights as they become, in float64, and refusals."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        slot: Callable[[Slot], Tensor],
        tied: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._base, self.slot, self.tied = parameters, slot, tied
        self._new: dict[str, Tensor] = {}
        self.refused: list[Unfoldable] = []

    def interpret(self, application: Application, values: Values) -> Interpreter:
        """What evaluates a method's expressions in float64, in eval mode."""

        def tensor(application: Application, name: str) -> Any:
            slot = application.slot(name)
            if slot is None:
                return None
            value = self.slot(slot).detach()
            return value.double() if value.is_floating_point() else value

        site = _EveryRow(values["W"]) if application.site.role == "embed" else None
        return interpreter(application, values, tensor, site=site)

    def get(self, name: str) -> Tensor:
        return self._new[name] if name in self._new else self._base[name].detach().double()

    def put(self, name: str, value: Tensor) -> None:
        self._new[name] = value.detach().double()

    def rounding(self) -> dict[str, float]:
        return {
            name: float((value - value.to(self._base[name].dtype).double()).abs().max())
            for name, value in self._new.items()
        }

    def finished(self) -> dict[str, Tensor]:
        return {name: value.to(self._base[name].dtype) for name, value in self._new.items()}


def _fold_group(job: Job, state: _State) -> None:
    try:
        if job.host.weight is None:
            raise _Refusal(_no_weights(job.host.role))
        _refuse_if_tied(job.host, state)
        if job.host.is_expert:
            _fold_expert(job, state)
        elif job.host.role in PROJECTIONS:
            _fold_projection(job, state)
        elif job.host.role == "norm":
            _fold_norm(job, state)
        elif job.host.role == "embed":
            _fold_embedding(job, state)
        else:
            raise _Refusal(_no_weights(job.host.role))
    except _Refusal as reason:
        state.refused += [Unfoldable(a.site, a.method.name, str(reason)) for a in job.all]


def _no_weights(role: str) -> str:
    if role.endswith("core"):
        return "the attention product has no weights to take the change"
    if role == "prompt":
        return "a longer input is no change of weights"
    return f"`{role}` has no weights of its own, and the change is not one of a neighbour's"


def _refuse_if_tied(host: Site, state: _State) -> None:
    for name in filter(None, (host.weight, host.bias)):
        users = state.tied.get(name, ())
        if len(users) > 1:
            raise _Refusal(
                f"{name} is shared by {', '.join(users)}, and only one of them changes; "
                "untie them first"
            )


def _check_affine(application: Application, hidden: set[str], forbidden: set[str]) -> None:
    for carry in application.method.carries:
        raise _Refusal(f"it hands `{carry.name}` to the next site")
    for composition in application.method.compositions:
        read = names(composition.value)
        inputs = read & {entry.name for entry in application.method.inputs}
        if inputs:
            raise _Refusal(f"it depends on `{min(inputs)}`, which each call supplies")
        if read & forbidden:
            raise _Refusal(
                f"it reads `{min(read & forbidden)}`, which is not this projection's own"
            )
        found = dependence(composition.value, hidden)
        if found.degree is Degree.OTHER:
            raise _Refusal(found.reason)


def _fold_projection(job: Job, state: _State) -> None:
    for application in job.before:
        _check_affine(application, {"h"}, {"x"})
    for application in job.own:
        _check_affine(application, {"x", "h"}, set())
    for application in job.after:
        sequential = application.method.insertion == "sequential"
        _check_affine(application, {"x", "h"}, set() if sequential else {"x"})
        _check_affine(application, {"x", "h"}, {"resid"})
    host = job.host
    assert host.weight is not None
    width = host.dims["d_x"]
    device = state.get(host.weight).device
    basis = torch.eye(width, dtype=torch.float64, device=device)
    offset = _run(job, state, torch.zeros(1, width, dtype=torch.float64, device=device))[0]
    weight = (_run(job, state, basis) - offset).transpose(0, 1)
    _store_projection(host, state, weight, offset)


def _fold_expert(job: Job, state: _State) -> None:
    """An expert's matrix in the parameter that holds all of them."""
    host = job.host
    assert host.weight is not None
    whole = state.get(host.weight).clone()
    index = host.dims["expert"]
    whole[index] = with_changes(whole[index], job.own, state.interpret)
    state.put(host.weight, whole)


def _store_projection(host: Site, state: _State, weight: Tensor, offset: Tensor) -> None:
    assert host.weight is not None
    if host.bias is None:
        if bool(offset.abs().max() > 1e-12 * (1 + weight.abs().max())):
            raise _Refusal("it adds a constant, and the projection has no bias to hold it")
    else:
        bias = state.get(host.bias)
        whole = offset if host.rows is None else scattered(bias, offset, host.rows, axis=0)
        state.put(host.bias, whole)
    full = state.get(host.weight)
    full = full.transpose(0, 1) if host.transposed else full
    full = weight if host.rows is None else scattered(full, weight, host.rows, axis=0)
    state.put(host.weight, full.transpose(0, 1) if host.transposed else full)


def _run(job: Job, state: _State, tokens: Tensor) -> Tensor:
    """The adapted projection as a function of its input, ``[n, d_x]`` to ``[n, d_h]``."""
    found: list[Finding] = [(application, None, {}) for application in job.before]
    x = change_results(found, tokens, state.interpret)
    operands = Operands({"x": x, **_weights(job.host, state)})
    found = _found(job, operands, state)
    values = operands.values
    h = torch.nn.functional.linear(values["x"], values["W"], values.get("b"))
    after = [(a, job.part(a), operands.of(job.part(a))) for a in job.after]
    return change_results([*found, *after], operands.with_parts(h), state.interpret)  # type: ignore[no-any-return]


def _found(job: Job, operands: Operands, state: _State) -> list[Finding]:
    """What acts at the host itself, when all of it has changed what the host reads."""
    acting = [(application, job.part(application)) for application in job.own]
    return change_operands(acting, operands, state.interpret)


def _weights(host: Site, state: _State) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, name in (("W", host.weight), ("b", host.bias)):
        if name is None:
            continue
        value = state.get(name)
        if key == "W" and host.transposed:
            value = value.transpose(0, 1)
        found[key] = value if host.rows is None else select(value, host.rows, axis=0)
    return found


def _fold_norm(job: Job, state: _State) -> None:
    """A norm scales by W and shifts by b; only a change of each feature by itself fits there."""
    host = job.host
    for application in job.own:
        _check_affine(application, {"h"}, {"x"})
    old = _weights(host, state)
    old.setdefault("b", torch.zeros_like(old["W"]))
    operands = Operands(old)
    found, values = _found(job, operands, state), operands.values
    changes = [c for a in job.own for c in a.method.compositions if c.target == "h"]
    if changes:
        _fold_norm_output(job, state, values, found)
    assert host.weight is not None
    state.put(host.weight, values["W"])
    if host.bias is not None:
        state.put(host.bias, values["b"])
    elif bool(values["b"].abs().max() > 0):
        raise _Refusal("it adds a constant, and the norm has no bias to hold it")


def _fold_norm_output(
    job: Job, state: _State, values: dict[str, Tensor], found: list[Finding]
) -> None:
    if "b" not in _weights(job.host, state):
        raise _Refusal("the norm's gain may be stored with an offset, so scaling it is not sure")
    width = values["W"].numel()
    basis = torch.eye(width, dtype=torch.float64, device=values["W"].device)

    def run(normalised: Tensor) -> Tensor:
        h = normalised * values["W"] + values["b"]
        return change_results(found, h, state.interpret)  # type: ignore[no-any-return]

    offset = run(torch.zeros(1, width, dtype=torch.float64, device=basis.device))[0]
    matrix = run(basis) - offset
    diagonal = torch.diagonal(matrix)
    if not torch.allclose(matrix, torch.diag(diagonal), rtol=0, atol=1e-12):
        raise _Refusal("it mixes features, and a norm scales each by itself")
    values["W"], values["b"] = diagonal, offset


def _fold_embedding(job: Job, state: _State) -> None:
    """Each row becomes what its token becomes: any function of the row and of its id."""
    host = job.host
    for application in job.own:
        _check_of_rows(application)
    if host.transposed or host.weight is None or state.get(host.weight).dim() != 2:
        raise _Refusal("a patch embedding takes changes of its weight alone")
    operands = Operands({"W": state.get(host.weight)})
    found = _found(job, operands, state)
    state.put(host.weight, change_results(found, operands.values["W"], state.interpret))


def _check_of_rows(application: Application) -> None:
    method = application.method
    for carry in method.carries:
        raise _Refusal(f"it hands `{carry.name}` to the next site")
    read = names(*(composition.value for composition in method.compositions))
    for entry in method.inputs:
        if entry.name in read:
            raise _Refusal(f"it depends on `{entry.name}`, which each call supplies")
    for tap in method.taps:
        if tap.name in read:
            raise _Refusal(f"it reads `{tap.name}`, which is not the embedding's own")
    for call in asking(method):
        texts = any(isinstance(arg, Number) and isinstance(arg.value, str) for arg in call.args)
        if reads(call) != "own" or call in asking(method, what=["places"]):
            raise _Refusal(f"`{call.op}` depends on where a token stands")
        if texts:
            raise _Refusal(f"`{call.op}` names a text, whose id no weight tells")


class _EveryRow(AtSite, Tokens):
    """What builtins ask of a site at which each row of an embedding is one token."""

    def __init__(self, like: Tensor) -> None:
        self._like = like

    @property
    def sequence(self) -> Tokens:
        """Each row is a token."""
        return self

    def identified(self, ids: Sequence[Any]) -> Tensor:
        """``[rows]``: whether a row's id is one of these."""
        rows = torch.arange(len(self._like), device=self._like.device)
        return torch.isin(rows, torch.tensor([int(one) for one in ids], device=rows.device))

    def as_number(self, marks: Tensor) -> Tensor:
        """Booleans in the number type of the rows."""
        return marks.to(self._like.dtype)
