"""A graph as a Python function."""

from collections.abc import Callable
from functools import lru_cache
from types import CodeType
from typing import Any

from torch.fx import Graph


def compiled(graph: Graph) -> Callable[..., Any]:
    """The function that computes a graph without attributes: it takes placeholders in order."""
    code = graph.python_code("self", verbose=False)
    space: dict[str, Any] = dict(code.globals)
    source = code.src.replace("def forward(self, ", "def forward(", 1)
    exec(_compiled(source.replace("def forward(self)", "def forward()", 1)), space)  # noqa: S102
    function: Callable[..., Any] = space["forward"]
    return function


@lru_cache(maxsize=1024)
def _compiled(source: str) -> CodeType:
    """Regions of one kind have the same source."""
    return compile(source, "<peftlang>", "exec")
