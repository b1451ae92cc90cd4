"""Where soft tokens can come in: at a model's input, or at a layer of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.fx import Node

from peftlang.capture import CapturedGraph
from peftlang.capture.facts import VALUE
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import is_inside, item_path
from peftlang.ir.plan import Site
from peftlang.prompts.layers import entered_layers
from peftlang.prompts.sequences import INPUTS, forward_of, parameters
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Occurrence


@dataclass(frozen=True)
class Entrances:
    """Where soft tokens can come in.

    Attributes:
        sites: Sites of role ``prompt``.
        tables: Learned positions, whose numbers tokens keep when others come in before them.
        why_no_input: Why there is none at the model's input, as a sentence.
        why_no_layer: Why there are not more at layers; "" where there are all.
    """

    sites: tuple[Site, ...]
    tables: tuple[Site, ...]
    why_no_input: str = ""
    why_no_layer: str = ""


def entrances(root: nn.Module, graph: CapturedGraph, sites: Sequence[Site]) -> Entrances:
    """Where soft tokens can come in.

    Args:
        root: The model.
        graph: One call of it.
        sites: Its other sites.
    """
    first = prompt_site(root, sites)
    ahead = ([first] if first else []) + prompts_inside(graph, sites)
    found, tables, reasons = list(ahead), list[Site](), list[str]()
    for prompt in ahead:
        layers, places, reason = entered_layers(graph, prompt, sites)
        found += layers
        tables += places
        reasons.append(reason)
    why = next(filter(None, reasons), "")
    return Entrances(tuple(found), tuple(tables), why_no_prompt(root), why)


def reader_of(root: nn.Module, path: str) -> str | None:
    """The innermost module around ``path`` that takes a model's input, if it takes token ids."""
    parts = path.split(".") if path else []
    for count in range(len(parts), -1, -1):
        module = root.get_submodule(".".join(parts[:count]))
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            continue
        own = parameters(forward_of(module))
        if any(name in own for name in INPUTS):
            return ".".join(parts[:count]) if "input_ids" in own else None
    return None


def prompt_site(root: nn.Module, sites: Sequence[Site]) -> Site | None:
    """The sequence that a soft prompt lengthens: the encoder's, or the only one of token ids.

    Args:
        root: The model.
        sites: Its other sites.
    """
    for embed, path in _readers(root, sites):
        dims = {"d_h": embed.dims["d_h"], "vocab": embed.dims["vocab"]}
        if layers := _layers(embed, sites):
            dims["layers"] = layers
        assert embed.weight is not None
        return Site(
            id=f"{path}#prompt",
            role="prompt",
            path=path,
            side=embed.side,
            weight=embed.weight,
            anchors=(embed.weight,),
            dims=dims,
        )
    return None


def why_no_prompt(root: nn.Module) -> str:
    """Why ``prompt_site`` found nothing, as a sentence."""
    own = parameters(forward_of(root))
    other = [name for name in INPUTS if name in own and name != "input_ids"]
    what = f"reads `{other[0]}`, which are no token ids" if other else "takes no `input_ids`"
    return (
        f"A soft prompt goes before a sequence of token ids, and this model {what}; or before one "
        "that all layers of a stack attend to, and read nothing beside that is as long."
    )


def _readers(root: nn.Module, sites: Sequence[Site]) -> Iterator[tuple[Site, str]]:
    """Embeddings of token ids, with the module that reads the ids for a stack of layers."""
    two_sided = any(site.role.startswith("cross_attn") for site in sites)
    for embed in sites:
        if embed.role != "embed" or "vocab" not in embed.dims or embed.weight is None:
            continue
        if two_sided and embed.side != "encoder":
            continue
        stacks = {s.stack for s in sites if s.role == "block" and s.side == embed.side and s.stack}
        path = _around(root, embed.path, stacks)
        if path is not None:
            yield embed, path


def _around(root: nn.Module, embed: str, stacks: set[str]) -> str | None:
    parts = embed.split(".")
    for count in range(len(parts) - 1, -1, -1):
        path = ".".join(parts[:count])
        holds = all(stack.startswith(f"{path}." if path else "") for stack in stacks)
        if holds and "input_ids" in parameters(forward_of(root.get_submodule(path))):
            return path
    return None


def _layers(embed: Site, sites: Sequence[Site]) -> int | None:
    blocks = (s.dims.get("layers") for s in sites if s.role == "block" and s.side == embed.side)
    return next((count for count in blocks if count), None)


def prompts_inside(graph: CapturedGraph, sites: Sequence[Site]) -> list[Site]:
    """A site of role ``prompt`` for each stack of layers whose sequence is no token ids.

    All layers of the stack read one sequence ``[batch, tokens, d]`` and nothing else that is as
    long (a mask, positions), and attend to all of it.

    Args:
        graph: One call of the whole model.
        sites: Every other site.
    """
    stacks: dict[str, list[Site]] = {}
    for site in sites:
        if site.role == "block" and site.stack is not None and site.layer is not None:
            stacks.setdefault(site.stack, []).append(site)
    reading = Reading.of(graph)
    return [_site(s, blocks) for s, blocks in stacks.items() if _has_room(reading, blocks)]


def _site(stack: str, blocks: Sequence[Site]) -> Site:
    first, last = blocks[0], blocks[-1]
    return Site(
        id=f"{stack}#prompt",
        role="prompt",
        path=stack.rpartition(".")[0],
        stack=stack,
        side=first.side,
        sees=first.sees,
        anchors=(first.anchors[0], last.anchors[0]),
        dims={"d_h": first.dims["d_x"], "layers": len(blocks)},
    )


def _has_room(reading: Reading, blocks: Sequence[Site]) -> bool:
    if [block.layer for block in blocks] != list(range(blocks[0].dims.get("layers", 0))):
        return False
    if any(block.dims.get("d_x") != blocks[0].dims.get("d_x") for block in blocks):
        return False
    found = locate(reading.graph, blocks).found
    once = all(len(occurrences) == 1 for occurrences in found.values())
    if not once or set(found) != {block.id for block in blocks}:
        return False
    return _is_open(reading, [found[block.id][0] for block in blocks])


def _is_open(reading: Reading, blocks: Sequence[Occurrence]) -> bool:
    """Whether the sequence that these layers read can be longer, and is no ids'."""
    if not all({"x", "h"} <= set(block.values) for block in blocks):
        return False
    x = blocks[0].values["x"]
    shape = shape_of(x)
    if len(shape) != 3 or any(shape_of(block.values["h"]) != shape for block in blocks):
        return False
    if _is_of_ids(reading.flow, x):
        return False
    tokens = int(shape[1])
    return all(
        _attends(reading, path, tokens) and not list(_others(reading.flow, path, block, tokens))
        for block in blocks
        for path in [item_path(block.site.stack or "", block.site.layer)]
    )


def _is_of_ids(flow: Flow, x: Node) -> bool:
    """Whether a sequence is made of whole numbers that the caller gives."""
    made_of = (node for node in flow.ancestors([x]) if node in flow.live)
    return any(node.op == "placeholder" and not _floats(node) for node in made_of)


def _floats(node: Node) -> bool:
    value = node.meta.get(VALUE)
    return not isinstance(value, Tensor) or value.is_floating_point()


def _attends(reading: Reading, path: str, tokens: int) -> bool:
    """Whether the layer's attention is over the whole sequence."""
    inside = [
        found
        for found in reading.attentions
        if any(is_inside(p, path) for p in reading.graph.facts.module_paths(found.call))
    ]
    lengths = [shape_of(found.k)[found.layout["k"].index("t")] for found in inside]
    return bool(lengths) and all(length == tokens for length in lengths)


def _others(flow: Flow, path: str, block: Occurrence, tokens: int) -> Iterator[Node]:
    """What a layer reads from outside that has as many entries as there are tokens."""
    inside = {n for n in flow.order if any(is_inside(p, path) for p in flow.facts.module_paths(n))}
    for node in inside:
        for operand in flow.operands[node]:
            own = operand in inside or operand is block.values["x"] or flow.is_weight(operand)
            if not own and tokens in shape_of(operand):
                yield operand
