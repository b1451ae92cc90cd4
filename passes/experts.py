"""experts: methods at single experts of a mixture, whose weights one parameter holds.

Which tokens an expert is given is known only when the model runs, and how their products are
computed differs from kernel to kernel; so a change at an expert is written as the same change of
its weights, which every kernel reads. Requires: located sites. Ensures: a graph in which experts
are changed reads the changed weights in the parameter's place; what cannot be one is an error
before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph
from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, Number, names, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.linearity import Degree, dependence
from peftlang.ir.method import Init, Method, fixed
from peftlang.ir.plan import Plan, Site
from peftlang.ir.starting import ZERO, starts_as
from peftlang.passes.dataflow.reading import applied_parameters
from peftlang.passes.rewriting import SLOT, Emission, Rewriting, SlotReads
from peftlang.passes.steps import Application
from peftlang.passes.views import scattered, select

EXPERT = "expert."
"""What begins the name of a position at single experts."""


def is_expert(site: Site) -> bool:
    """Whether a site is a projection of one expert of several that one parameter holds."""
    return site.role.startswith(EXPERT)


# Before a model runs


def check_experts(plan: Plan) -> None:
    """Refuse methods at experts that are no change of their weights.

    Raises:
        PeftError: S418.
    """
    for placement in plan.placements:
        use = plan.uses[placement.label]
        experts = [name for name in placement.sites if is_expert(plan.sites[name])]
        reason = _why_not(fixed(use.method, use.args)) if experts else ""
        if reason:
            raise PeftError(
                f"`{use.method.name}` is no change of the weights of {experts[0]}: {reason}",
                code="S418",
                help="which tokens an expert has shows only when the model runs; `ffn` is the "
                "whole block, with all of its tokens",
            )


def _why_not(method: Method) -> str:
    """What keeps a method from being a linear map of an expert's input, or ""."""
    if method.carries or method.taps or method.inputs:
        return "it reads what other sites have, or the call supplies"
    zeros = {name: Init(name="zeros") for name in ("x", "h")}
    for composition in method.compositions:
        value = composition.value
        drawn = [n.op for n in postorder(value) if isinstance(n, Apply) and _is_random(n)]
        if drawn:
            return f"`{drawn[0]}` draws anew for each token"
        found = dependence(value, {"x", "h"})
        if found.degree is Degree.OTHER:
            return found.reason
        if composition.target in {"x", "h"} and starts_as(value, zeros) != ZERO:
            return "it adds a constant, and experts have no bias to hold it"
    if any({"x", "h"} & names(penalty) for penalty in method.penalties):
        return "its penalty reads the expert's tokens"
    return ""


def _is_random(node: Apply) -> bool:
    """Whether a function draws in training; `dropout(x, 0)` and `jitter(x, 0)` do not."""
    if node.is_hyper or not BUILTINS[node.op].random:
        return False
    amount = node.args[1] if len(node.args) > 1 else None
    return not (isinstance(amount, Number) and amount.value == 0)


# In a graph


def change_experts(
    graph: CapturedGraph, by_site: Mapping[str, Sequence[Application]], reads: SlotReads,
    work: Rewriting,
) -> None:  # fmt: skip
    """Let a graph read the experts' weights as the active methods change them."""
    used = applied_parameters(graph)
    found: dict[str, list[Sequence[Application]]] = {}
    for group in by_site.values():
        site = group[0].site
        if is_expert(site) and site.weight in used:
            found.setdefault(str(site.weight), []).append(group)
    for name, groups in found.items():
        for group in groups:
            for application in group:
                for slot in _slots(application):
                    reads(slot)
        node = next(n for n, p in graph.facts.parameters.items() if p == name and n.users)
        with Emission(_last_given(node.graph, node)) as emission:
            emission.replace(node, _changed(emission.proxy(node), groups, reads, emission, work))


def _slots(application: Application) -> list[str]:
    named = (application.slot(tensor.name) for tensor in application.method.tensors)
    return [slot for slot in named if slot is not None]


def _last_given(graph: Graph, weight: Node) -> Node:
    """The last node that only hands in a value."""
    given = (n for n in reversed(graph.nodes) if n is weight or _is_given(n))
    found: Node = next(given)
    return found


def _is_given(node: Node) -> bool:
    return node.op == "placeholder" or SLOT in node.meta


def _changed(
    whole: Any, groups: Iterable[Sequence[Application]], reads: SlotReads, emission: Emission,
    work: Rewriting,
) -> Any:  # fmt: skip
    """The parameter ``[experts, ...]`` with each changed expert's matrix in its place."""
    experts: dict[int, Any] = {}
    count = 0
    for group in groups:
        site = group[0].site
        index, count = site.dims["expert"], site.dims["experts"]
        matrix = experts.get(index, whole.select(0, index))
        experts[index] = with_changes(matrix, group, _Reader(reads, emission, work))
    return torch.stack([experts.get(index, whole.select(0, index)) for index in range(count)])


class _Reader:
    """Reads an application's tensors in a graph, in one number type."""

    def __init__(self, reads: SlotReads, emission: Emission, work: Rewriting) -> None:
        self._reads, self._emission, self._work = reads, emission, work

    def __call__(self, application: Application, name: str) -> Any:
        slot = application.slot(name)
        return None if slot is None else self._emission.proxy(self._reads(slot))

    def training(self, application: Application) -> bool:
        return self._work.training(application.site.path)


def with_changes(matrix: Any, group: Sequence[Application], read: Any) -> Any:
    """An expert's matrix as stored, with what acts at one of its roles written into it.

    Args:
        matrix: ``[d_h, d_x]``, or ``[d_x, d_h]`` where the site is transposed; all roles' rows.
        group: What acts at the role, in order.
        read: Gives the value of an application's tensor, or None.
    """
    site = group[0].site
    full = matrix.transpose(0, 1) if site.transposed else matrix
    own = full if site.rows is None else select(full, site.rows, axis=0)
    own = _computed(group, own, read).type_as(full)
    full = own if site.rows is None else scattered(full, own, site.rows, axis=0)
    return full.transpose(0, 1) if site.transposed else full


def _computed(group: Sequence[Application], weight: Any, read: Any) -> Any:
    """``[d_h, d_x]`` after all methods: what they make of each unit vector is a column.

    As at any site, clauses read old values, and ``h`` follows from the new operands.
    """
    values = {"W": weight}
    targets = {c.target for application in group for c in application.method.compositions}
    if targets != {"W"}:
        values["x"] = torch.diag_embed(torch.ones_like(weight.select(0, 0))).unsqueeze(0)
        values["h"] = weight.transpose(0, 1).unsqueeze(0)
    found = []
    for application in group:
        found.append((application, values))
        values = {**values, **_results(application, values, read, {"x", "W"})}
    if targets == {"W"}:
        return values["W"]
    h = torch.matmul(values["x"], values["W"].transpose(0, 1)) if targets != {"h"} else values["h"]
    for application, old in found:
        h = _results(application, {**old, "h": h}, read, {"h"}).get("h", h)
    return h.squeeze(0).transpose(0, 1)


def _results(
    application: Application, values: Mapping[str, Any], read: Any, targets: set[str]
) -> dict[str, Any]:
    """What the compositions of these targets give."""

    def lookup(name: str) -> Any:
        tensor = read(application, name)
        if tensor is not None:
            return tensor.type_as(values["W"]) if _is_float(application, name) else tensor
        return values["h" if name == "x" and _follows(application) else name]

    interpret = Interpreter(torch, application.sizes, lookup, training=read.training(application))
    chosen = [c for c in application.method.compositions if c.target in targets]
    return {c.target: interpret(c.value) for c in chosen}


def _is_float(application: Application, name: str) -> bool:
    return any(t.name == name and t.kind == "float" for t in application.method.tensors)


def _follows(application: Application) -> bool:
    return application.method.insertion == "sequential"
