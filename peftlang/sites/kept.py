"""Surveys that are kept: a few in this process, more in the user's cache folder.

A survey says nothing of weights, and holds none; so models of one kind share it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any

from torch import nn

from peftlang import keeping
from peftlang.capture.identity import identity
from peftlang.capture.stored import CannotBeStoredError, dumped, loaded
from peftlang.sites.survey import Survey

KIND = "surveys"
MOST = 8
"""How many surveys a process keeps."""

_HERE: OrderedDict[str, Survey] = OrderedDict()
_LOCK = Lock()


def name_of(model: nn.Module, example_inputs: Mapping[str, Any]) -> str | None:
    """The name of a model's survey; None where none can be kept."""
    return identity(model, example_inputs)


def find(name: str) -> Survey | None:
    """The survey of that name, if it is kept."""
    with _LOCK:
        if name in _HERE:
            _HERE.move_to_end(name)
            return _HERE[name]
    data = keeping.find(KIND, name)
    if data is None:
        return None
    try:
        graph, beside = loaded(data)
        survey = Survey(graph, *beside)
    except Exception:
        # Damaged, or written where more could be imported: as good as none.
        keeping.forget(KIND, name)
        return None
    _remember(name, survey)
    return survey


def keep(name: str, survey: Survey) -> None:
    """Keep a survey; where something in it cannot be, it is not kept."""
    beside = survey.sites, survey.containers, survey.tables, survey.grids, survey.no_prompt
    try:
        data = dumped(survey.graph, beside)
    except CannotBeStoredError:
        return
    keeping.keep(KIND, name, data)
    _remember(name, survey)


def forget() -> None:
    """Drop what this process keeps."""
    with _LOCK:
        _HERE.clear()


def _remember(name: str, survey: Survey) -> None:
    with _LOCK:
        _HERE[name] = survey
        while len(_HERE) > MOST:
            _HERE.popitem(last=False)
