"""Reading a model as a graph: one call, recorded operation by operation, without its weights."""

from peftlang.capture.facts import CapturedGraph, GraphFacts, ModelNames, ModuleCall, Place
from peftlang.capture.record import Recorder, record, record_module
from peftlang.capture.stand_in import ADAPTERS, base_parameters, is_adapters

__all__ = [
    "ADAPTERS",
    "CapturedGraph",
    "GraphFacts",
    "ModelNames",
    "ModuleCall",
    "Place",
    "Recorder",
    "base_parameters",
    "is_adapters",
    "record",
    "record_module",
]
