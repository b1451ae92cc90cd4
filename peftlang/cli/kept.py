"""Results of `verify` that hold, kept in the user's cache folder for specs that did not change.

A result is found again only where nothing that it depends on can have changed: the text of the
spec and of all that it imports, every option, peftlang itself, Python and the packages. So none is
kept of a Python reference, which may read anything, nor of a model that is no preset.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftlang import keeping
from peftlang.lower import Spec, load

KIND = "verify"

PACKAGES = ("torch", "transformers", "hypothesis", "peft", "numpy", "pydantic", "lark")
"""What a verdict may depend on besides peftlang and Python."""

SWITCHES = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""Variables of the environment with which no model is compiled."""


def key_of(specs: Iterable[str | Path], options: dict[str, Any]) -> str | None:
    """The name of a result: a hash of all that it depends on; None where that cannot be said.

    Args:
        specs: The spec, and the one that it is compared with.
        options: Everything else that `verify` is given.

    Raises:
        SpecError: a spec is wrong.
    """
    if any(map(keeping.is_editable, PACKAGES)):
        return None
    found = {
        "specs": [_texts(load(spec)) for spec in specs],
        "options": options,
        "peftlang": keeping.own_code(),
        "python": [sys.version, platform.machine(), platform.system()],
        "packages": {name: keeping.version_of(name) for name in PACKAGES},
        "environment": {name: os.environ.get(name) for name in SWITCHES},
    }
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def find(key: str) -> dict[str, Any] | None:
    """The result of that name; None where there is none, or none that can be read."""
    with suppress(ValueError):
        found: dict[str, Any] = json.loads(keeping.find(KIND, f"{key}.json") or b"")
        return found
    return None


def keep(key: str, facts: dict[str, Any]) -> None:
    """Keep a result; where the folder cannot be written, it is not kept."""
    keeping.keep(KIND, f"{key}.json", json.dumps(facts).encode())


def _texts(spec: Spec) -> list[tuple[str, str]]:
    """The text of a spec and of all that it imports, each with the name that messages show."""
    found: dict[int, tuple[str, str]] = {}
    waiting = [spec.unit]
    while waiting:
        unit = waiting.pop()
        if id(unit) not in found:
            found[id(unit)] = (unit.source.name, unit.source.text)
            waiting += [definition.unit for definition in unit.names.values()]
    return sorted(found.values())
