"""What is kept in the user's cache folder, by kind and by a name that says all it depends on.

Nothing there is ever needed: what is not found, or cannot be read, is made again. So what cannot be
written is not kept, and says nothing.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import NamedTemporaryFile

KINDS = {"surveys": 200, "verify": 1000}
"""How many entries of each kind are kept at most; the oldest go first."""


def folder() -> Path:
    """Where everything is: ``$PEFTLANG_CACHE``, or ``peftlang`` in the user's cache folder."""
    if "PEFTLANG_CACHE" in os.environ:
        return Path(os.environ["PEFTLANG_CACHE"])
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "peftlang"


def find(kind: str, name: str) -> bytes | None:
    """What is kept of that kind and name; None for nothing."""
    with suppress(OSError):
        return (folder() / kind / name).read_bytes()
    return None


def keep(kind: str, name: str, data: bytes) -> None:
    """Keep data, in the place of what was kept of that kind and name."""
    with suppress(OSError):
        place = folder() / kind
        place.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place, prefix=".", delete=False) as file:
            file.write(data)
        Path(file.name).replace(place / name)
        for old in sorted(entries(kind), key=_age)[KINDS[kind] :]:
            old.unlink()


def forget(kind: str, name: str) -> None:
    """Drop an entry, if there is one."""
    with suppress(OSError):
        (folder() / kind / name).unlink()


def entries(kind: str) -> Iterator[Path]:
    """The files of a kind."""
    with suppress(OSError):
        yield from (path for path in (folder() / kind).iterdir() if path.name[0] != ".")


def _age(path: Path) -> float:
    with suppress(OSError):
        return -path.stat().st_mtime
    return 0.0


# What entries depend on


@cache
def own_code() -> str:
    """A hash of peftlang's own files, as they are on disk: a checkout has no version."""
    root, digest = Path(__file__).parent, sha256()
    for top, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if name.endswith((".py", ".peft", ".lark")):
                about = os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118 -- for speed
                digest.update(f"{top}/{name} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def is_editable(package: str) -> bool:
    """Whether a package is somebody's checkout, which changes without a new version."""
    try:
        said = distribution(package).read_text("direct_url.json") or "{}"
    except PackageNotFoundError:
        return False
    return bool(json.loads(said).get("dir_info", {}).get("editable"))


@cache
def version_of(package: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
