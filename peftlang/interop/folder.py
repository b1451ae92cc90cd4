"""The folder of an HF PEFT adapter: read with every part checked, written whole or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftlang.diagnostics import PeftError

CONFIG, TENSORS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True)
class Folder:
    """What an HF PEFT folder holds.

    Attributes:
        path: Where it is.
        config: The options of ``adapter_config.json``.
        tensors: Every tensor by its key in the file.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def is_hf_folder(path: Path) -> bool:
    """Whether a folder looks like an HF PEFT adapter."""
    return (path.expanduser() / CONFIG).is_file()


def read(path: Path) -> Folder:
    """Read an HF PEFT folder.

    Raises:
        PeftError: I901, it is not there or is no such folder; I902, a file is damaged.
    """
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise PeftError(
            f"there is no folder {path}",
            code="I901",
            help="a folder that PeftModel.save_pretrained wrote, on this disk",
        )
    if not (path / CONFIG).is_file():
        raise PeftError(
            f"{path} holds no {CONFIG}",
            code="I901",
            help="adapters that are not named `default` lie in a folder of their name below it",
        )
    return Folder(path, _config(path / CONFIG), _tensors(path))


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise _damaged(file, "it names no `peft_type`")
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    file = path / TENSORS
    if not file.is_file() and (path / PICKLED).is_file():
        raise PeftError(
            f"{path} holds {PICKLED}, a pickle, which can run code when it is read",
            code="I901",
            help="save the adapter again with safe_serialization=True",
        )
    try:
        return load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, why: object) -> PeftError:
    text = str(why).splitlines()[0] if str(why) else type(why).__name__
    return PeftError(
        f"{file} cannot be used: {text}",
        code="I902",
        help="fetch the folder anew, or save the adapter again",
    )


def write(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write an HF PEFT folder beside its place, then rename it.

    Raises:
        PeftError: D604, something is there already, or it cannot be written.
    """
    text = json.dumps(config, indent=2, sort_keys=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with new_folder(path) as temporary:
        (temporary / CONFIG).write_text(text + "\n", encoding="utf-8")
        save_file(plain, temporary / TENSORS, metadata={"format": "pt"})
    return path.expanduser().absolute()


def check_free(path: Path) -> None:
    """Refuse to write where something is.

    Raises:
        PeftError: D604.
    """
    if path.exists():
        raise PeftError(f"{path} is there already", code="D604", help="name a new folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes its place when the body ends well, and else is removed.

    Raises:
        PeftError: D604, something is there already, or it cannot be written.
    """
    path = path.expanduser().absolute()
    check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        raise PeftError(
            f"{path} cannot be written: {str(error).splitlines()[0]}",
            code="D604",
            help="nothing was left there; free some space or name another folder",
        ) from error
