"""Which of its operands an operation writes into: the one place that says it."""

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.fx import Node
from torch.utils._pytree import tree_leaves

_OPERATORS = frozenset(
    {
        "iadd",
        "iand",
        "ifloordiv",
        "imatmul",
        "imod",
        "imul",
        "ior",
        "ipow",
        "isub",
        "itruediv",
        "ixor",
        "setitem",
    }
)

_WORDS = frozenset({"and_", "is_", "not_", "or_"})
"""Of Python's module `operator`, called so since these are words of the language."""


def written(name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The operands that an operation writes into.

    Args:
        name: What it is called: ``add_``, ``__setitem__``, ``relu``.
        function: The function, where there is more than a name.
        args: Its operands.
        kwargs: Those given by name.
    """
    found = [args[place] for place in _places(name) if place < len(args)]
    out = kwargs.get("out")
    if out is not None:
        found += list(out) if isinstance(out, tuple | list) else [out]
    if not found and args and _is_asked_in_place(function, args, kwargs):
        found.append(args[0])
    return found


def operands_written(node: Node) -> list[Node]:
    """The operands that a node writes into, without that showing in the graph's edges."""
    if node.op not in {"call_method", "call_function"}:
        return []
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    function = None if isinstance(target, str) else target
    found = tree_leaves(written(name, function, node.args, node.kwargs))
    return [operand for operand in found if isinstance(operand, Node)]


@lru_cache(maxsize=4096)
def _places(name: str) -> tuple[int, ...]:
    """Places of operands that are written into, from the operator's schemas where it has some."""
    name = name.partition(".")[0]  # of an overload: `add_.Tensor`
    plain = name.strip("_") if name.startswith("__") else name
    if plain in _OPERATORS:
        return (0,)
    if name in _WORDS:
        return ()
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    if not schemas:
        # What is no operator of torch's own: `torch.nn.init.normal_`.
        return (0,) if name.endswith("_") and not name.endswith("__") else ()
    return tuple(
        sorted(
            {
                place
                for schema in schemas
                for place, argument in enumerate(schema.arguments)
                if not argument.kwarg_only
                and argument.alias_info is not None
                and argument.alias_info.is_write
            }
        )
    )


def _is_asked_in_place(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function of torch's is told so by its option `inplace`."""
    if "inplace" in kwargs:
        return bool(kwargs["inplace"])
    place = _place_of_inplace(function)
    return place is not None and place < len(args) and args[place] is True


@lru_cache(maxsize=1024)
def _place_of_inplace(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None
