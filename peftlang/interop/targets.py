"""Which modules an HF PEFT configuration means, by that library's own rules, and the reverse.

The rules are those of peft 0.21: a text is a regular expression for the whole path; a list holds
whole paths or their ends; ``layers_to_transform`` looks at the first number below a list of layers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from peftlang.capture import is_adapters
from peftlang.diagnostics import PeftError

ALL_LINEAR = "all-linear"
_CLASSIFIERS = ("score", "classifier")


def chosen_modules(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """Paths of the modules that a configuration targets, in the model's order.

    Raises:
        PeftError: I904, nothing says which; I905, no module matches, or a listed one is absent.
    """
    wanted = config.get("target_modules")
    if not wanted:
        raise PeftError(
            "the configuration does not say which modules it targets",
            code="I904",
            help="name them in `target_modules`; newer versions of PEFT write them when saving",
        )
    paths = [path for path, _ in own_modules(model)]
    if isinstance(wanted, str) and wanted.lower() == ALL_LINEAR:
        wanted = _all_linear(model, config)
    found = [path for path in paths if _is_chosen(path, wanted, config)]
    if isinstance(wanted, str):
        absent = [] if found else [wanted]
    else:
        absent = [name for name in wanted if not any(ends_with(path, name) for path in paths)]
    if absent or not found:
        raise PeftError(
            f"no module of this model is `{', '.join(map(str, absent or wanted))}`",
            code="I905",
            help="give the base model that the adapter was trained on",
        )
    return found


def _is_chosen(path: str, wanted: Any, config: Mapping[str, Any]) -> bool:
    if is_listed(path, config.get("exclude_modules")):
        return False
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in saved):
        return False
    if not is_listed(path, wanted):
        return False
    layers = config.get("layers_to_transform")
    if isinstance(wanted, str) or path in wanted or layers is None or layers == []:
        return True
    layer = _layer(path, config.get("layers_pattern"))
    return layer is not None and layer in ([layers] if isinstance(layers, int) else layers)


def is_listed(path: str, names: Any) -> bool:
    """Whether a regular expression (a text) or a list of paths and their ends means ``path``."""
    if not names:
        return False
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(ends_with(path, name) for name in names)


def ends_with(path: str, name: str) -> bool:
    """Whether ``name`` is ``path`` or its last parts."""
    return path == name or path.endswith(f".{name}")


def _layer(path: str, patterns: Any) -> int | None:
    if not patterns:
        found = re.match(r".*?\.[^.]*\.(\d+)\.", path)
        return int(found[1]) if found else None
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path)
        if found:
            return int(found[1])
    return None


def _all_linear(model: nn.Module, config: Mapping[str, Any]) -> list[str]:
    found = [path for path, module in own_modules(model) if is_linear(module)]
    outputs: Any = getattr(model, "get_output_embeddings", None)
    head = outputs() if outputs else None
    if head is not None:
        return [path for path in found if model.get_submodule(path) is not head]
    if config.get("task_type") == "SEQ_CLS":
        heads = [getattr(model, name, None) for name in _CLASSIFIERS]
        return [p for p in found if not any(model.get_submodule(p) is h for h in heads)]
    return found


def own_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module below the base, without what adapters of ours have added."""
    found = model.named_modules()
    return [(path, m) for path, m in found if path and not is_adapters(path)]


def is_linear(module: nn.Module) -> bool:
    """``nn.Linear``, or the transposed one of GPT-2."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """GPT-2's ``Conv1D``: a linear layer whose weight is stored ``[d_x, d_h]``."""
    return type(module).__name__ == "Conv1D"


def in_pattern(pattern: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value that ``rank_pattern`` or ``alpha_pattern`` gives a module; the first match wins."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def pattern_key(path: str) -> str:
    """A key of such a pattern that means one module only."""
    return f"^{re.escape(path)}"


def as_targets(wanted: Sequence[str], model: nn.Module) -> list[str] | str:
    """The shortest ``target_modules`` that mean exactly these modules.

    Names such as ``q_proj`` where all modules of these names are wanted, else whole paths, else
    a regular expression.
    """
    paths = [path for path, _ in own_modules(model)]
    ends = sorted({path.rpartition(".")[2] for path in wanted})
    for candidate in (ends, sorted(wanted)):
        if not _holds_number(candidate) and _means(candidate, paths, wanted):
            return candidate
    return "|".join(re.escape(path) for path in sorted(wanted))


def _holds_number(names: Iterable[str]) -> bool:
    return any(name.isdigit() for name in names)


def _means(names: Sequence[str], paths: Iterable[str], wanted: Iterable[str]) -> bool:
    return {path for path in paths if is_listed(path, names)} == set(wanted)


def relative_key(path: str) -> str:
    """The same for the methods that match a key below the first part of a path."""
    return re.escape(path.partition(".")[2])
