"""A language and a compiler for parameter-efficient fine-tuning methods.

A `.peft` file says what a method computes, where, and how its change meets the hidden state;
`compile` writes that into a PyTorch model's captured graph, and the model stays the same object.

The names below are looked up when they are first used, so that `import peftlang` (and the
commands that only read specs) never import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peftlang.diagnostics import PeftError as PeftError
    from peftlang.interop import from_hf as from_hf
    from peftlang.interop import to_hf as to_hf
    from peftlang.interop import to_hf_as_lora as to_hf_as_lora
    from peftlang.merging import NotMergeable as NotMergeable
    from peftlang.merging import merge as merge
    from peftlang.merging import unmerge as unmerge
    from peftlang.merging import why_not_mergeable as why_not_mergeable
    from peftlang.pipeline import compile as compile
    from peftlang.runtime.control import active as active
    from peftlang.runtime.control import adapters as adapters
    from peftlang.runtime.control import disabled as disabled
    from peftlang.runtime.control import inputs as inputs
    from peftlang.runtime.control import penalties as penalties
    from peftlang.runtime.control import remove as remove
    from peftlang.runtime.control import set_active as set_active
    from peftlang.runtime.initialise import initialise as initialise
    from peftlang.runtime.one_graph import graph as graph
    from peftlang.runtime.rates import parameter_groups as parameter_groups
    from peftlang.saving import load as load
    from peftlang.saving import save as save
    from peftlang.verifying import verify as verify

    __version__: str


_OF_CONTROL = ("active", "adapters", "disabled", "inputs", "penalties", "remove", "set_active")

_OF_MERGING = ("NotMergeable", "merge", "unmerge", "why_not_mergeable")

_OF_INTEROP = ("from_hf", "to_hf", "to_hf_as_lora")

_HOMES = {
    "PeftError": "peftlang.diagnostics",
    "compile": "peftlang.pipeline",
    "load": "peftlang.saving",
    "save": "peftlang.saving",
    **dict.fromkeys(_OF_CONTROL, "peftlang.runtime.control"),
    **dict.fromkeys(_OF_MERGING, "peftlang.merging"),
    "graph": "peftlang.runtime.one_graph",
    "initialise": "peftlang.runtime.initialise",
    "parameter_groups": "peftlang.runtime.rates",
    "verify": "peftlang.verifying",
    **dict.fromkeys(_OF_INTEROP, "peftlang.interop"),
}

__all__ = [
    "NotMergeable",
    "PeftError",
    "__version__",
    "active",
    "adapters",
    "compile",
    "disabled",
    "from_hf",
    "graph",
    "initialise",
    "inputs",
    "load",
    "merge",
    "parameter_groups",
    "penalties",
    "remove",
    "save",
    "set_active",
    "to_hf",
    "to_hf_as_lora",
    "unmerge",
    "verify",
    "why_not_mergeable",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("peftlang")
    if name not in _HOMES:
        raise AttributeError(f"module 'peftlang' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
