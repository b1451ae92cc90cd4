"""Which part of a model is a base's, and which an adapter's."""

ADAPTERS = "peftlang"
"""Name of the sub-module that holds adapters' tensors, wherever there are some."""


def is_adapters(name: str) -> bool:
    """Whether the qualified name of a module or parameter leads to an adapter."""
    return ADAPTERS in name.split(".")
