"""Kinds of calls of one module: what it computes may be another thing in another kind of call.

Where something is done between a module's own operations, it matters which these are. A module
takes other ways with a mask than without, with a cache, for one token; so it is recorded by itself,
for each kind of call, when it is first called so.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.capture import CapturedGraph, ModuleCall, record_module
from peftlang.capture.facts import FUNCTION, asked_name
from peftlang.capture.memory import OVERWRITTEN
from peftlang.dataflow.borders import Borders
from peftlang.dataflow.multihead import write_out
from peftlang.regions.graphs import RegionGraph, inside
from peftlang.runtime.parts import Part
from peftlang.runtime.seams import deviated
from peftlang.sites.locate import locate
from peftlang.sites.survey import Survey

DEPTH = 5
"""How far objects among the arguments are looked into."""


def kind_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What of a call's arguments may decide which way a module takes, as a text."""
    by_place = [_kind(value, DEPTH) for value in args]
    by_name = [f"{name}={_kind(value, DEPTH)}" for name, value in kwargs.items()]
    return ", ".join(by_place + by_name)


def _kind(value: Any, depth: int) -> str:
    if isinstance(value, Tensor):
        ones = "".join("1" if size == 1 else "n" for size in value.shape)
        return f"{'f' if value.is_floating_point() else 'i'}[{ones}]"
    if isinstance(value, int) and not isinstance(value, bool):
        # Places and lengths go on and on; whether there is none, or one, may matter.
        return str(min(max(value, -1), 2))
    if value is None or isinstance(value, bool | str | float):
        return repr(value)
    return _inner(value, depth)


def _inner(value: Any, depth: int) -> str:
    if not depth or torch.compiler.is_dynamo_compiling():
        return type(value).__name__
    if isinstance(value, list | tuple):
        return f"({' '.join(_kind(item, depth - 1) for item in value)})"
    if isinstance(value, dict):
        return f"{{{' '.join(f'{k}:{_kind(v, depth - 1)}' for k, v in value.items())}}}"
    own = {} if isinstance(value, nn.Module | type) else getattr(value, "__dict__", {})
    inner = " ".join(f"{name}:{_kind(item, depth - 1)}" for name, item in own.items())
    return f"{type(value).__name__}({inner})"


def as_called(
    survey: Survey, part: Part, known: RegionGraph, module: nn.Module, args: Any, kwargs: Any
) -> RegionGraph:
    """A region's graph as its module is called now.

    Args:
        survey: Where the model's sites run.
        part: What is done at the module.
        known: The graph from when the model was surveyed: right if the module did the same.
        module: The module.
        args: Its arguments.
        kwargs: Those given by name.

    Raises:
        PeftError: R501, the module does something else, and its sites cannot be found there.
    """
    try:
        captured = record_module(module, part.path, survey.graph.facts.names, args, kwargs)
    except Exception:
        # It reads what its weights make. Should it do something else than before, the call fails.
        return known
    write_out(captured.graph, captured.calls)
    (first,) = (call for call in survey.graph.calls if (call.path, call.number) == (part.path, 0))
    _tell_what_lasts(first, captured.calls[0])
    before, now = _asked(survey.graph, first), _asked(captured, captured.calls[0])
    if before == now:
        return known
    located = locate(captured, [used.occurrence.site for used in part.sites])
    sites = []
    for used in part.sites:
        found = located.found.get(used.occurrence.site.id, [])
        if not found or not used.names <= found[0].values.keys():
            different = next((n for n, b in zip(now, [*before, ""], strict=False) if n != b), "")
            raise deviated(part.path, different, "as it was")
        sites += [(one, used.names) for one in found]
    return inside(captured, captured.calls[0], sites)


def _tell_what_lasts(known: ModuleCall, now: ModuleCall) -> None:
    """Mark what the model writes into outside of the module, which its own graph does not hold."""
    for before, after in ((known.inputs, now.inputs), (known.outputs, now.outputs)):
        lost = {p: n.meta[OVERWRITTEN] for n, p in before.items() if OVERWRITTEN in n.meta}
        for node, place in after.items():
            if place in lost:
                node.meta.setdefault(OVERWRITTEN, lost[place])


def _asked(captured: CapturedGraph, call: ModuleCall) -> list[str]:
    nodes = Borders.of(captured).inside(call)
    return [asked_name(node.meta[FUNCTION]) for node in nodes if FUNCTION in node.meta]
