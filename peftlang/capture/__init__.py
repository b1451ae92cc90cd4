"""Reading a model as a graph: one call, recorded operation by operation, without its weights."""

from peftlang.capture.facts import CapturedGraph, GraphFacts, ModelNames, ModuleCall, Place
from peftlang.capture.paths import ADAPTERS, is_adapters
from peftlang.capture.record import Recorder, record, record_module
from peftlang.capture.stand_in import base_parameters
from peftlang.capture.storage import Weights

__all__ = [
    "ADAPTERS",
    "CapturedGraph",
    "GraphFacts",
    "ModelNames",
    "ModuleCall",
    "Place",
    "Recorder",
    "Weights",
    "base_parameters",
    "is_adapters",
    "record",
    "record_module",
]
