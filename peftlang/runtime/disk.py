"""The saved folder: written whole or not at all, read with every file checked."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peftlang.capture import Weights, is_adapters
from peftlang.capture.stand_in import own_class
from peftlang.capture.storage import assign, is_sharded
from peftlang.diagnostics import PeftError
from peftlang.runtime.holders import AdapterTensors
from peftlang.runtime.registry import AdapterRecord, Registry
from peftlang.runtime.shards import first_alone

FORMAT = 1
"""Version of the folder's layout; readers refuse a later one."""

STATE_DICT = "model.safetensors"
"""Where a Trainer looks for what it wrote."""

REFUSAL = "an adapter and no model: peftlang.load(base, folder)"
"""What `from_pretrained` finds for the kind of model, and shows when it refuses it."""

SPEC, PLAN, TENSORS, ABOUT = "adapter.peft", "plan.json", "adapter.safetensors", "adapter.json"


@dataclass(frozen=True)
class Saved:
    """A folder that was read: its spec, its tensors, and what it says of its base.

    Buffers that follow from the seed are rebuilt, unless kept; everything else is stored. Names of
    parameters that did not train are ``frozen``.
    """

    folder: Path
    source: str
    entry: str
    seed: int
    base: dict[str, Any]
    tensors: dict[str, Tensor]
    frozen: frozenset[str] = frozenset()


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """What tells one base from another: class and shapes, whatever the weights are.

    A base in shards, and a packed one, have the shapes of what they stand for.
    """
    shapes = {name: list(shape) for name, shape in Weights(model).shapes().items()}
    kind = own_class(model).__name__
    text = json.dumps([kind, shapes], sort_keys=True)
    config = getattr(model, "config", None)
    return {
        "class": kind,
        "name": getattr(config, "_name_or_path", "") or "",
        "model_type": getattr(config, "model_type", ""),
        "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
        "parameters": shapes,
    }


def write(
    folder: Path,
    record: AdapterRecord,
    tensors: AdapterTensors,
    model: nn.Module,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write an adapter's folder, replacing a saved adapter that is there.

    Of an adapter in shards every process has to ask for it, unless its values are given; the first
    one writes, and all go on when it is there.

    Args:
        folder: Where to.
        record: The adapter.
        tensors: Its tensors.
        model: The adapted model.
        state: Values by their names in the state dict, where they are not those of the tensors.

    Raises:
        PeftError: D604, it cannot be written, or the place holds something else. What was
            there is untouched. R532, the adapter's tensors have no numbers.
    """
    folder = folder.expanduser().absolute()
    assert record.plan.spec is not None
    kept = {n: t for n, t in tensors.named() if tensors.is_persistent(n)}
    given = _by_identity(model, state or {})
    held = {n: given[id(t)] if id(t) in given else tensors.value(n) for n, t in kept.items()}
    values = {name: _plain(value) for name, value in held.items()}
    shared = any(is_sharded(t) and id(t) not in given for t in kept.values())
    frozen = [n for n, t in kept.items() if isinstance(t, nn.Parameter) and not t.requires_grad]
    about = {
        "format": FORMAT,
        "peftlang": _version(),
        "entry": record.plan.adapter,
        "seed": record.seed,
        "frozen": frozen,
        "base": fingerprint(model),
    }
    texts = {
        SPEC: record.plan.spec.source,
        PLAN: record.plan.model_dump_json(indent=1) + "\n",
        ABOUT: json.dumps(about, indent=1) + "\n",
    }
    if shared:
        first_alone(lambda: _write(folder, texts, values))
    else:
        _write(folder, texts, values)
    return folder


def _write(folder: Path, texts: dict[str, str], values: dict[str, Tensor]) -> None:
    _check_place(folder)
    with _cannot_write(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
            save_file(values, temporary / TENSORS, metadata={"format": "pt"})
            for file in temporary.iterdir():
                file.chmod(0o666 & ~_umask())
            temporary.chmod(0o777 & ~_umask())
            _swap(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_all(owner: Registry, folder: str, state: Mapping[str, Tensor] | None) -> None:
    """Write every adapter of a model, each to a folder of its name, and their part of its state.

    That part stands in a file that a Trainer reads when it resumes. `from_pretrained` would read it
    too, and make a base of random weights, of the class's default size where there is no config; so
    there is one, of a kind that nothing knows, with an attention that no class has.

    Raises:
        PeftError: D604, it cannot be written.
    """
    place = Path(folder).expanduser().absolute()
    for name, record in owner.records.items():
        write(place / name, record, owner.tensors(name), owner.root, state)
    known = owner.root.state_dict() if state is None else state
    values = {n: _plain(t) for n, t in known.items() if is_adapters(n)}
    config = {"model_type": REFUSAL, "attn_implementation": REFUSAL}
    with _cannot_write(place), _replaced(place / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    with _cannot_write(place), _replaced(place / STATE_DICT) as temporary:
        save_file(values, temporary, metadata={"format": "pt"})


@contextlib.contextmanager
def _replaced(place: Path) -> Iterator[Path]:
    """A file to write beside a place, which it takes once it is written."""
    handle, name = tempfile.mkstemp(dir=place.parent)
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(place)
    finally:
        Path(name).unlink(missing_ok=True)


def _by_identity(model: nn.Module, state: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Values of a state dict by the parameter or buffer that each is of."""
    own = model.state_dict(keep_vars=True) if state else {}
    return {id(own[name]): value for name, value in state.items() if name in own}


def _plain(value: Tensor) -> Tensor:
    return value.detach().contiguous().cpu()


def read(folder: Path) -> Saved:
    """Read a saved folder.

    Raises:
        PeftError: D601, D602, D605.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise PeftError(
            f"there is no folder {folder}",
            code="D601",
            help="peftlang.save and `peftlang compile -o` write such folders",
        )
    folder = _single(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        version = int(about["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, ABOUT, error) from error
    if version > FORMAT:
        raise PeftError(
            f"{folder} has format {version}, and this peftlang reads up to {FORMAT}",
            code="D605",
            help="upgrade peftlang",
        )
    try:
        source = (folder / SPEC).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(folder, SPEC, error) from error
    try:
        tensors = load_file(folder / TENSORS)
    except (OSError, safetensors.SafetensorError) as error:
        raise _damaged(folder, TENSORS, error) from error
    try:
        base = dict(about["base"])
        _ = (base["class"], base["fingerprint"], dict(base["parameters"]))
        frozen = frozenset(map(str, about.get("frozen", ())))
        return Saved(folder, source, str(about["entry"]), int(about["seed"]), base, tensors, frozen)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, ABOUT, error) from error


def _single(folder: Path) -> Path:
    """The adapter in a folder of adapters, as `save_pretrained` writes it."""
    inner = sorted(path.parent for path in folder.glob(f"*/{ABOUT}"))
    if (folder / ABOUT).exists() or not inner:
        return folder
    if len(inner) > 1:
        names = ", ".join(path.name for path in inner)
        raise PeftError(
            f"{folder} holds several adapters: {names}",
            code="D601",
            help=f"name one of them: {inner[0]}",
        )
    return inner[0]


def check_base(saved: Saved, model: nn.Module) -> None:
    """The model is built as the adapter's base was.

    Raises:
        PeftError: D603, with what differs.
    """
    own = fingerprint(model)
    if own["fingerprint"] == saved.base["fingerprint"]:
        return
    raise PeftError(
        f"{saved.folder.name} was made on another base: {_difference(saved.base, own)}",
        code="D603",
        help="load it on the base it was made on"
        + (f": {saved.base['name']}" if saved.base.get("name") else ""),
    )


def fill(saved: Saved, tensors: AdapterTensors) -> None:
    """Copy the saved values into an adapter's tensors; all or none.

    A random buffer that the folder holds all the same (one that came from elsewhere) is stored
    from now on. On the meta device they wait for ``initialise``.

    Raises:
        PeftError: D602, a tensor is missing, of another shape, or not the spec's.
    """
    wanted = {n: t for n, t in tensors.named() if tensors.is_persistent(n) or n in saved.tensors}
    for name, tensor in wanted.items():
        found = saved.tensors.get(name)
        if found is None:
            raise _damaged(saved.folder, TENSORS, f"it has no tensor {name}")
        if found.shape != tensor.shape:
            raise _damaged(
                saved.folder,
                TENSORS,
                f"{name} is {list(found.shape)} and should be {list(tensor.shape)}",
            )
    extra = sorted(set(saved.tensors) - set(wanted))
    if extra:
        raise _damaged(saved.folder, TENSORS, f"the spec has no tensor {extra[0]}")
    for name, tensor in wanted.items():
        if tensor.is_meta:
            tensors.later[name] = saved.tensors[name]
        else:
            assign(tensor, saved.tensors[name])
        tensors.keep(name)
        if name in saved.frozen:
            tensor.requires_grad_(False)


def _difference(theirs: dict[str, Any], own: dict[str, Any]) -> str:
    if theirs["class"] != own["class"]:
        return f"a {theirs['class']}, and this is a {own['class']}"
    before, now = theirs["parameters"], own["parameters"]
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            return f"{name} was {before.get(name, 'absent')}, and is {now.get(name, 'absent')}"
    return "the order of its parameters differs"


def _damaged(folder: Path, file: str, why: object) -> PeftError:
    text = str(why).splitlines()[0] if str(why) else type(why).__name__
    return PeftError(
        f"{folder / file} cannot be used: {text}",
        code="D602",
        help="save the adapter again, or fetch the folder anew",
    )


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    files = {p.name for p in folder.iterdir()} if folder.is_dir() else {folder.name}
    if not folder.is_dir() or not files <= {SPEC, PLAN, TENSORS, ABOUT}:
        raise PeftError(
            f"{folder} is there already, and is no saved adapter",
            code="D604",
            help="name a new folder",
        )


@contextlib.contextmanager
def _cannot_write(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        raise PeftError(
            f"{folder} cannot be written: {str(error).splitlines()[0]}",
            code="D604",
            help="nothing was changed there; free some space or name another folder",
        ) from error


def _swap(new: Path, place: Path) -> None:
    """Put ``new`` in its place; the old folder is moved aside first and removed last."""
    if not place.exists():
        new.rename(place)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old.", dir=place.parent))
    aside.rmdir()
    place.rename(aside)
    try:
        new.rename(place)
    except OSError:
        aside.rename(place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _version() -> str:
    from importlib.metadata import version

    return version("peftlang")
