"""What a spec says of itself, read from its syntax: arguments, positions, promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftlang.diagnostics import Source
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.method import Method
from peftlang.ir.reach import asking
from peftlang.lower import build, load
from peftlang.syntax import nodes, parse
from tests.methods.harness import SPECS

LARGEST = 8
"""Integer hyper-parameters are cut to this, which divides every width of the tiny presets."""


def library() -> list[Path]:
    return sorted(SPECS.glob("*.peft"))


def _item(path: Path) -> nodes.Method | nodes.Adapter:
    file, diagnostics = parse(Source(str(path), path.read_text()))
    assert not diagnostics
    last = file.items[-1]
    assert isinstance(last, (nodes.Method, nodes.Adapter))
    return last


def _methods(path: Path) -> list[nodes.Method]:
    """The methods that a spec defines."""
    file, _ = parse(Source(str(path), path.read_text()))
    return [item for item in file.items if isinstance(item, nodes.Method)]


def small_arguments(path: Path) -> dict[str, Any]:
    """The integers of the spec that are too large for a tiny model, and what to give instead."""
    numbers = {
        hyper.name.text: hyper.default.value
        for hyper in _item(path).parameters
        if hyper.type.text == "int" and isinstance(hyper.default, nodes.Number)
    }
    return {name: LARGEST for name, value in numbers.items() if value > LARGEST}


def promises(path: Path, promise: str) -> bool:
    clauses = _item(path).clauses
    ensured = [p for c in clauses if isinstance(c, nodes.Ensure) for p in c.properties]
    return any(isinstance(p, nodes.Name) and p.text == promise for p in ensured)


def alternatives(path: Path) -> list[set[str]]:
    """For each place that the spec must find in a model, the names that would do."""
    found = []
    for clause in _item(path).clauses:
        if isinstance(clause, nodes.Position):
            found.append(set(_roles(clause.selector)))
        elif isinstance(clause, nodes.Use) and clause.at is not None:
            found.append(set(_roles(clause.at)))
    taps = (clause for method in _methods(path) for clause in method.clauses)
    return found + [set(_roles(tap.selector)) for tap in taps if isinstance(tap, nodes.Tap)]


def trains(path: Path) -> set[str]:
    """Which of `weight` and `bias` the spec unfreezes."""
    clauses = [c for c in _item(path).clauses if isinstance(c, nodes.Train)]
    return {role.rpartition(".")[2] for c in clauses for role in _roles(c.selector)}


def _roles(selector: nodes.Selector) -> Iterator[str]:
    match selector:
        case nodes.Role():
            yield ".".join(selector.parts)
        case nodes.Either():
            for option in selector.options:
                yield from _roles(option)
        case nodes.Scoped():
            yield from _roles(selector.selector)
        case nodes.Glob():
            raise AssertionError("the standard library names roles, not paths")


PROJECTIONS = {"linear", "head", "ffn.up", "ffn.gate", "ffn.down"} | {
    f"{attention}.{part}" for attention in ("attn", "cross_attn") for part in "qkvo"
}
SUBLAYERS = {"attn", "cross_attn", "ffn"}
ASK_THE_SITE = {"attend", "scores", "mix", "prefix_mass", "project_k", "project_v"} | {
    name for name, entry in BUILTINS.items() if entry.asks
}
"""Functions that read more than their arguments."""


def kind_of_change(path: Path) -> frozenset[str]:
    """What the compiler has to do for the spec: at what places, to what, from what.

    Specs of one kind differ in their expressions alone, which are compared with references site by
    site; so one of each kind stands for the others where a whole model has to be run.
    """
    adapter = build(load(str(path)), None, small_arguments(path))
    found = trains(path) | {_place(role) for places in alternatives(path) for role in places}
    for use in adapter.uses:
        found.update(_traits(use.method))
    return frozenset(found)


def needs(path: Path) -> set[str]:
    """What the sequences of a model need to have: token ids, patches, soft tokens, towers."""
    adapter = build(load(str(path)), None, small_arguments(path))
    calls = [call for use in adapter.uses for call in asking(use.method)]
    found = {"ids" for call in calls if BUILTINS[call.op].asks == "ids"}
    sides = {side for use in adapter.uses for t in use.selector.targets for side in t.sides}
    found |= {"towers"} if sides - {"encoder", "decoder"} else set()
    return found | {call.op for call in calls if call.op in {"conv2", "soft"}}


def layers(path: Path) -> int:
    """How many layers show what the spec does: two where it chooses among them."""
    return 2 if "in layers[" in path.read_text() else 1


def _place(role: str) -> str:
    if role in PROJECTIONS:
        return "at projections"
    return "at sub-layers" if role in SUBLAYERS else f"at {role.removeprefix('cross_')}"


def _traits(method: Method) -> Iterator[str]:
    yield method.insertion
    yield from (f"changes {target}" for target in method.targets)
    if method.inputs:
        yield "inputs"
    if method.penalties:
        yield "penalties"
    for expr in postorder(*(c.value for c in method.compositions)):
        if isinstance(expr, Apply) and expr.op in ASK_THE_SITE:
            yield expr.op


def one_of_each_kind(among: list[Path]) -> set[Path]:
    """The shortest spec of each kind of change."""
    longest_first = sorted(among, key=lambda path: -len(path.read_text()))
    return set({kind_of_change(path): path for path in longest_first}.values())


def one_of_each_way(among: list[Path]) -> set[Path]:
    """The shortest spec of each way in which a call reaches what a spec reads.

    Specs of one way differ in what is written into the graph, and not in how a model with them is
    called, copied or saved.
    """
    longest_first = sorted(among, key=lambda path: -len(path.read_text()))
    return set({_way(path): path for path in longest_first}.values())


def _way(path: Path) -> frozenset[str]:
    adapter = build(load(str(path)), None, small_arguments(path))
    found = {f"has {need}" for need in needs(path)} | {"trains" for _ in trains(path)}
    for use in adapter.uses:
        method = use.method
        kinds = {
            "inputs": method.inputs,
            "penalties": method.penalties,
            "taps": method.taps,
            "states": method.carries,
        }
        found |= {kind for kind, entries in kinds.items() if entries}
    found |= {role for places in alternatives(path) for role in places if role == "prompt"}
    return frozenset(found)
