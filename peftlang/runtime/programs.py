"""The code that runs at a module, or in the place of an operation: made when it is first needed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from peftlang.capture import CapturedGraph
from peftlang.capture.facts import VALUE
from peftlang.capture.memory import OVERWRITTEN
from peftlang.capture.undisturbed import undisturbed, untraced
from peftlang.dataflow.attention import fused
from peftlang.dataflow.borders import Border
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.multihead import write_out
from peftlang.emit.attention_view import FOLDED, is_folded
from peftlang.emit.rewriting import Rewriting
from peftlang.emit.slots import SLOT, Slot
from peftlang.prompts.usage import asked
from peftlang.regions.code import compiled
from peftlang.regions.cut import copy_exported, cut
from peftlang.regions.graphs import operation
from peftlang.regions.program import Program
from peftlang.regions.usage import Used
from peftlang.runtime.acting import Acting, numbered
from peftlang.runtime.kinds import as_called, kind_of_call
from peftlang.runtime.parts import Code, Operation, Part
from peftlang.runtime.running import Described
from peftlang.runtime.seams import missed
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Located, Occurrence
from peftlang.sites.survey import Survey

MODEL = "the model"
"""What its root is called in text."""


def program(
    acting: Acting,
    part: Part,
    module: nn.Module,
    given: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Program:
    """What runs at a module's border, and between its operations.

    Args:
        acting: The adapters.
        part: What is done at the module.
        module: The module.
        given: What is known of the call: names of slots, with ``|`` between.
        args: The module's arguments.
        kwargs: Those given by name.
    """
    if torch.compiler.is_dynamo_compiling():
        kind = kind_of_call(args, kwargs) if part.within else ""
        name = prepare(acting.number, part.path, module.training, given, kind)
    else:
        with untraced():
            kind = kind_of_call(args, kwargs) if part.within else ""
        name = _program(acting, part, (module.training, given, kind), (module, args, kwargs))
    made: Program = getattr(part.made, name)
    return made


def replacing(
    acting: Acting, at: Operation, described: Described, training: bool, given: str, operands: Any
) -> Code:
    """An operation as it is asked for now, with what acts there written into it.

    Args:
        acting: The adapters.
        at: The operation.
        described: Its operands, as its code depends on them.
        training: Whether the module is in training mode.
        given: What is known of the call: names of slots, with ``|`` between.
        operands: Operands, and options.
    """
    if torch.compiler.is_dynamo_compiling():
        key = at.name, at.number, described
        name = prepare(acting.number, at.path, training, given, "", key)
    else:
        name = _replacing(acting, at, described, training, given, operands)
    made: Code = getattr(at.made, name)
    return made


def prepare(number: int, path: str, training: bool, given: str, kind: str, at: Any = None) -> str:
    """Make code while TorchDynamo traces; its name, to what is traced a constant."""
    acting = numbered(number)
    part = acting.parts[path]
    if at is None:
        return _program(acting, part, (training, given, kind), None)
    name, place, described = at
    return _replacing(acting, part.operations[name, place], described, training, given, None)


# What `torch.compiler.assume_constant_result` sets, without the import of all of TorchDynamo: it
# calls this function while it traces, instead of tracing it, and takes what it returns as it is.
prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]


Key = tuple[bool, str, str]
"""Whether the module is in training mode, what is known of the call, and its kind."""


def _program(acting: Acting, part: Part, key: Key, called: Any) -> str:
    name = part.made.names.get(key)
    if name is None:
        with undisturbed():
            name = part.made.add(key, _written(acting, part, key, called))
    return name


def _written(acting: Acting, part: Part, key: Key, called: Any) -> Program:
    if not part.sites:
        return Program()
    training, given, _ = key
    region = acting.graph(part)
    if part.within and called is not None:
        region = as_called(acting.survey, part, region, *called)
    work = _rewriting(acting, part.path or MODEL, region.graph, region.occurrences, training, given)
    acting.rewrite(work)
    return cut(region, work) or Program()


def _rewriting(
    acting: Acting,
    name: str,
    graph: Any,
    occurrences: Iterable[Occurrence],
    training: bool,
    given: str,
) -> Rewriting:
    located = Located()
    for one in occurrences:
        located.found.setdefault(one.site.id, []).append(one)
    facts = frozenset(given.split("|")) - {""}
    grids = tuple((Slot("grid", str(b)), stages) for b, stages in acting.survey.grids)
    return Rewriting(
        name, graph, located, acting.plans, acting.applications, training, facts, grids
    )


def _replacing(
    acting: Acting, at: Operation, described: Described, training: bool, given: str, operands: Any
) -> str:
    key = described, training, given
    name = at.made.names.get(key)
    if name is None:
        with undisturbed():
            operands = operands or _made_up(at, described)
            name = at.made.add(key, _replaced(acting, at, operands, training, given))
    return name


def _replaced(acting: Acting, at: Operation, operands: Any, training: bool, given: str) -> Code:
    facts = acting.survey.graph.facts
    recorded: dict[Any, Any] = {**dict(enumerate(at.recorded[0])), **at.recorded[1]}
    weights = {
        key: name
        for key, node in recorded.items()
        if isinstance(node, Node) and (name := facts.parameter_of(node)) is not None
    }
    args, kwargs = operands
    captured = operation(at.function, args, kwargs, weights)
    ends = (n.meta.get(OVERWRITTEN) for u in at.sites for n in u.occurrence.values.values())
    if writing := next(filter(None, ends), None):
        for node in captured.graph.nodes:
            node.meta[OVERWRITTEN] = writing
    known = _within(acting, captured, at)
    work = _rewriting(
        acting, f"{at.name} in {at.path or MODEL}", captured.graph, known, training, given
    )
    if not known:
        work.captured = captured
        work.sought = tuple(used.occurrence.site for used in at.sites)
    acting.rewrite(work)
    copy_exported(work)
    lost = [
        used.occurrence.site.id
        for used in at.sites
        if not work.located.found.get(used.occurrence.site.id)
    ]
    if lost:
        raise missed(at.path, ", ".join(lost))
    own = [n for n in work.graph.find_nodes(op="placeholder") if SLOT not in n.meta]
    return _as_code(work, own)


def as_graph(acting: Acting, captured: CapturedGraph, training: bool, given: str) -> Code:
    """A recorded call of the model with everything that acts written into it.

    Args:
        acting: The adapters.
        captured: The call.
        training: Whether the model is in training mode.
        given: What is known of the call: names of slots, with ``|`` between.
    """
    write_out(captured.graph, captured.calls)
    sites = {k: s for plan in acting.plans for k, s in plan.plan.concerned.items()}
    located = locate(captured, [s for s in sites.values() if s.role != "prompt"])
    here = Survey(captured, acting.survey.sites)
    extra = [used.occurrence for used in asked(here, acting.plans)]
    known = [one for found in located.found.values() for one in found]
    for node, name in captured.facts.parameters.items():
        node.meta[SLOT] = Slot("weight", name)
    for node, name in captured.facts.buffers.items():
        node.meta[SLOT] = Slot("buffer", name)
    constants = {Slot("constant", n.name): v for n, v in captured.constants.items()}
    for node in captured.constants:
        node.replace_all_uses_with(_constant(captured.graph, node))
        captured.graph.erase_node(node)
    work = _rewriting(acting, MODEL, captured.graph, [*known, *extra], training, given)
    acting.rewrite(work)
    return replace(_as_code(work, captured.inputs), constants=constants)


def _within(acting: Acting, captured: CapturedGraph, at: Operation) -> list[Occurrence]:
    """The sites of an attention product; none where sites have to be found."""
    call = next(n for n in captured.graph.nodes if n.op == "call_function")
    product = fused(call) if at.name == "scaled_dot_product_attention" else None
    if product is None:
        return []
    made = []
    for used in at.sites:
        layout, meant = dict(product.layout), product.product
        if is_folded(used.occurrence.site, call):
            layout |= {"q": FOLDED, "h": FOLDED}
            meant = replace(meant, kv_repeats=False)
        values = {**product.parts, "h": call}
        for name, border in at.far[used.occurrence.site.id].items():
            values[name] = _placeholder(captured.graph, border, used, name)
        made.append(
            replace(
                used.occurrence,
                call=call,
                values=values,
                readers=dict(product.readers),
                layout=layout,
                product=meant,
            )
        )
    return made


def _placeholder(graph: Graph, border: Border, used: Used, name: str) -> Node:
    """What an operation reads that is no operand of it."""
    with graph.inserting_before(next(iter(graph.nodes))):
        made = graph.placeholder(f"far_{name}")
    made.meta |= {
        VALUE: used.occurrence.values[name].meta.get(VALUE),
        SLOT: Slot("value", str(border)),
    }
    return made


def _constant(graph: Graph, node: Node) -> Node:
    with graph.inserting_before(next(iter(graph.nodes))):
        made = graph.placeholder(node.name)
    made.meta |= {**node.meta, SLOT: Slot("constant", node.name)}
    return made


def _as_code(work: Rewriting, inputs: Sequence[Node]) -> Code:
    """A rewritten graph as one piece of code."""
    graph, exported = work.graph, tuple(work.exported)
    result = graph.output_node().args[0]
    graph.output_node().args = ((result, *(work.exported[slot] for slot in exported)),)
    slots = [n for n in graph.find_nodes(op="placeholder") if SLOT in n.meta]
    for node in (*reversed(inputs), *reversed(slots)):
        next(iter(graph.nodes)).prepend(node)
    return Code(compiled(graph), tuple(n.meta[SLOT] for n in slots), exported)


def _made_up(at: Operation, described: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Operands of the kinds described, with sizes as when the model was recorded."""
    args, names, options = described
    known: dict[Any, Any] = {**dict(enumerate(at.recorded[0])), **at.recorded[1]}

    made: list[torch.Tensor] = []

    def one(key: int | str, kind: Any) -> Any:
        if not (isinstance(kind, tuple) and kind[:1] in {("tensor",), ("same",)}):
            return kind
        if kind[0] == "same":
            return made[kind[1]]
        _, floating, dims, heads, alike = kind
        node = known.get(key)
        sizes = list(shape_of(node)) if isinstance(node, Node) else [1] * dims
        sizes = sizes if len(sizes) == dims else [1] * dims
        if dims == 4 and isinstance(node, Node):
            sizes[1] = heads
            sizes[2] = at.folded[1] if alike and at.folded else sizes[2]
        dtype = torch.float32 if floating else torch.bool
        made.append(torch.empty(sizes, dtype=dtype, device="meta"))
        return made[-1]

    operands = tuple(one(place, kind) for place, kind in enumerate(args))
    return operands, {name: one(name, kind) for name, kind in zip(names, options, strict=True)}
