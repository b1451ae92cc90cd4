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
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from peftlang.lower import Spec, load

PACKAGES = ("torch", "transformers", "hypothesis", "peft", "numpy", "pydantic", "lark")
"""What a verdict may depend on besides peftlang and Python."""

SWITCHES = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
"""Variables of the environment with which no model is compiled."""

MOST = 1000
"""Results that are kept; the oldest go first."""


def folder() -> Path:
    """Where results are: ``$PEFTLANG_CACHE``, or ``peftlang`` in the user's cache folder."""
    if "PEFTLANG_CACHE" in os.environ:
        return Path(os.environ["PEFTLANG_CACHE"]) / "verify"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "peftlang" / "verify"


def key_of(specs: Iterable[str | Path], options: dict[str, Any]) -> str | None:
    """The name of a result: a hash of all that it depends on; None where that cannot be said.

    Args:
        specs: The spec, and the one that it is compared with.
        options: Everything else that `verify` is given.

    Raises:
        SpecError: a spec is wrong.
    """
    if any(map(_is_editable, PACKAGES)):
        return None
    found = {
        "specs": [_texts(load(spec)) for spec in specs],
        "options": options,
        "peftlang": _own_code(),
        "python": [sys.version, platform.machine(), platform.system()],
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ.get(name) for name in SWITCHES},
    }
    text = json.dumps(found, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def find(key: str) -> dict[str, Any] | None:
    """The result of that name; None where there is none, or none that can be read."""
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((folder() / f"{key}.json").read_text("utf-8"))
        return found
    return None


def keep(key: str, facts: dict[str, Any]) -> None:
    """Keep a result; where the folder cannot be written, it is not kept."""
    with suppress(OSError):
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=place, delete=False, encoding="utf-8") as file:
            json.dump(facts, file)
        Path(file.name).replace(place / f"{key}.json")
        for old in sorted(place.glob("*.json"), key=_age)[MOST:]:
            old.unlink()


def _age(path: Path) -> float:
    return -path.stat().st_mtime


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


def _own_code() -> str:
    """A hash of peftlang's own files: a checkout changes without a new version."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    paths = [
        Path(top) / name
        for top, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.endswith((".py", ".peft", ".lark"))
    ]
    for path in sorted(paths):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _is_editable(package: str) -> bool:
    """Whether a package is somebody's checkout, which changes without a new version."""
    try:
        said = distribution(package).read_text("direct_url.json") or "{}"
    except PackageNotFoundError:
        return False
    return bool(json.loads(said).get("dir_info", {}).get("editable"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
