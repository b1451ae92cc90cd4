"""Reading a model's graphs: TorchDynamo in front, identities of parameters and modules behind."""

from peftlang.capture.compiled import (
    RECOMPILE_LIMIT,
    compile_function,
    inner_backend,
    only_inlined,
)
from peftlang.capture.examples import Sizes, graph_inputs, hint_of, stand_in
from peftlang.capture.experts import at_once, experts_of
from peftlang.capture.facts import (
    CapturedGraph,
    GraphFacts,
    ModelNames,
    copied,
    facts_for,
    graphs_of,
)
from peftlang.capture.frontend import capture, fastpath_disabled

__all__ = [
    "RECOMPILE_LIMIT",
    "CapturedGraph",
    "GraphFacts",
    "ModelNames",
    "Sizes",
    "at_once",
    "capture",
    "compile_function",
    "copied",
    "experts_of",
    "facts_for",
    "fastpath_disabled",
    "graph_inputs",
    "graphs_of",
    "hint_of",
    "inner_backend",
    "only_inlined",
    "stand_in",
]
