"""Methods at single experts of a mixture, whose weights one parameter holds.

Which tokens an expert is given is known only when the model runs, and how their products are
computed differs from kernel to kernel; so a change at an expert is written as the same change of
its weights, which every kernel reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from peftlang.emit import casts
from peftlang.emit.applications import Application
from peftlang.emit.evaluate import (
    Interpret,
    Operands,
    Values,
    change_operands,
    change_results,
    interpreter,
)
from peftlang.emit.rewriting import Emission, Rewriting, node_of, replace
from peftlang.emit.rows import scattered, select
from peftlang.ir.interpret import Interpreter


def change_experts(work: Rewriting, by_site: Mapping[str, Sequence[Application]]) -> None:
    """Let a graph read the experts' weights as the active methods change them."""
    holders = {one.values["W"]: one for one in work.occurrences if one.site.is_expert}
    for node in holders:
        groups = [
            by_site[one.site.id]
            for one in work.occurrences
            if one.site.is_expert and one.values["W"] is node and one.site.id in by_site
        ]
        if not groups:
            continue
        for group in groups:
            for application in group:
                for definition in application.method.tensors:
                    _read(work, application, definition.name)
        last = next(n for n in reversed(work.graph.nodes) if n.op == "placeholder" or n is node)
        with Emission(work, last.next) as emission:
            whole = emission.proxy(node)
            changed = _changed(whole, groups, _interpret_in(work, emission, whole))
        replace(node, node_of(changed), but=emission.made)


def _read(work: Rewriting, application: Application, name: str) -> Any:
    slot = application.slot(name)
    return None if slot is None else work.read(slot)


def _interpret_in(work: Rewriting, emission: Emission, whole: Any) -> Interpret:
    def interpret(application: Application, values: Values) -> Interpreter:
        def own(application: Application, name: str) -> Any:
            node = _read(work, application, name)
            if node is None:
                return None
            value = emission.proxy(node)
            typed = application.is_float(name)
            return emission.call(casts.as_type_of, value, whole) if typed else value

        return interpreter(application, values, own, training=work.training)

    return interpret


def _changed(whole: Any, groups: Iterable[Sequence[Application]], interpret: Interpret) -> Any:
    """The parameter ``[experts, ...]`` with each changed expert's matrix in its place."""
    experts: dict[int, Any] = {}
    count = 0
    for group in groups:
        site = group[0].site
        index, count = site.dims["expert"], site.dims["experts"]
        matrix = experts.get(index, whole.select(0, index))
        experts[index] = with_changes(matrix, group, interpret)
    return torch.stack([experts.get(index, whole.select(0, index)) for index in range(count)])


def with_changes(matrix: Any, group: Sequence[Application], interpret: Interpret) -> Any:
    """An expert's matrix as stored, with what acts at one of its roles written into it.

    Args:
        matrix: ``[d_h, d_x]``, or ``[d_x, d_h]`` where the site is transposed; all roles' rows.
        group: What acts at the role, in order.
        interpret: Gives what evaluates each method's expressions.
    """
    site = group[0].site
    full = matrix.transpose(0, 1) if site.transposed else matrix
    own = full if site.rows is None else select(full, site.rows, axis=0)
    own = _computed(group, own, interpret).type_as(full)
    full = own if site.rows is None else scattered(full, own, site.rows, axis=0)
    return full.transpose(0, 1) if site.transposed else full


def _computed(group: Sequence[Application], weight: Any, interpret: Interpret) -> Any:
    """``[d_h, d_x]`` after all methods: what they make of each unit vector is a column."""
    targets = {c.target for application in group for c in application.method.compositions}
    values = {"W": weight}
    if targets != {"W"}:
        values["x"] = torch.diag_embed(torch.ones_like(weight.select(0, 0))).unsqueeze(0)
    operands = Operands(values)
    found = change_operands([(application, None) for application in group], operands, interpret)
    if targets == {"W"}:
        return operands.values["W"]
    x, weight = operands.values["x"], operands.values["W"]
    h = change_results(found, torch.matmul(x, weight.transpose(0, 1)), interpret)
    return h.squeeze(0).transpose(0, 1)
