"""Reading the specs that a command line names."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftlang.diagnostics import PeftError, Source


def spec_paths(given: Sequence[str]) -> Iterator[str]:
    """Every spec that the arguments name: files, `-`, and each .peft file below a folder.

    Raises:
        PeftError: D601, a path does not exist, or a folder holds no spec.
    """
    for text in given:
        path = Path(text)
        if text == "-":
            yield text
        elif path.is_dir():
            found = sorted(p for p in path.rglob("*.peft") if p.is_file())
            if not found:
                raise PeftError(f"the folder `{text}` holds no .peft file", code="D601")
            yield from map(str, found)
        elif path.exists():
            yield text
        else:
            raise PeftError(f"there is no file or folder `{text}`", code="D601")


def spec_sources(given: Sequence[str]) -> Iterator[Source]:
    """Every spec that the arguments name, read.

    Raises:
        PeftError: D601, a path does not exist or cannot be read.
    """
    for name in spec_paths(given):
        if name == "-":
            yield Source.from_bytes("<stdin>", sys.stdin.buffer.read())
            continue
        try:
            yield Source.from_file(Path(name))
        except OSError as error:
            raise PeftError(f"cannot read `{name}`: {error.strerror}", code="D601") from error


def replace_text(path: Path, text: str) -> None:
    """Replace a file's text in one step, so that a crash or a full disk leaves the old one.

    Raises:
        PeftError: D604, the file or its folder cannot be written.
    """
    target = path.resolve()
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
                out.write(text)
            Path(temporary).chmod(target.stat().st_mode)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PeftError(f"cannot write `{path}`: {error.strerror}", code="D604") from error
