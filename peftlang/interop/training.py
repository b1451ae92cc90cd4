"""Parameters of the base that an adapter trains, as HF PEFT's options and tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from peftlang.capture import base_parameters
from peftlang.diagnostics import PeftError
from peftlang.interop.correspondence import Correspondence
from peftlang.interop.targets import own_modules
from peftlang.interop.trained import tied_names
from peftlang.ir.plan import TRAINED, Plan


@dataclass(frozen=True)
class Training:
    """What ``train`` amounts to.

    Attributes:
        options: `bias` and `modules_to_save`.
        tensors: By their keys in the file.
        targets: Modules that the method itself copies.
    """

    options: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)


def training_of(
    plan: Plan,
    model: nn.Module,
    tensor: Callable[[str], Tensor],
    targets: Sequence[str],
    correspondence: Correspondence,
) -> Training:
    """`bias` where all of them train, or those of the targets; `modules_to_save` for the rest.

    Raises:
        PeftError: I909, a module trains in part.
    """
    if not plan.train:
        return Training()
    parameters = base_parameters(model)
    trained = {name: tensor(f"{TRAINED}.{name}") for name in plan.train}
    biases = {name for name in parameters if name.endswith("bias")}
    own = {f"{path}.bias" for path in targets} & set(parameters)
    bias, covered = "none", set[str]()
    if correspondence.bias and biases and biases <= set(trained):
        bias, covered = "all", biases
    elif correspondence.bias and own and own <= set(trained):
        bias, covered = f"{correspondence.bias}_only", own
    modules = _whole_modules([n for n in trained if n not in covered], model)
    found = {}
    for path, leaf, value in _held(trained, model):
        inner = "base_layer." if path in targets else ""
        found[correspondence.root + (f"{path}.{inner}{leaf}" if path else leaf)] = value
    options: dict[str, Any] = {"bias": bias} if correspondence.bias else {}
    if modules:
        _check_ends(modules, model)
        options["modules_to_save"] = modules
    return Training(options, found)


def whole_copies(
    plan: Plan, model: nn.Module, tensor: Callable[[str], Tensor], correspondence: Correspondence
) -> Training:
    """An adapter that has no method and trains modules whole, as norm tuning does.

    Raises:
        PeftError: I909, a module trains in part.
    """
    modules = _whole_modules(list(plan.train), model)
    norms = [path for path in modules if _is_norm(model.get_submodule(path))] or modules
    rest = [path for path in modules if path not in norms]
    found = {}
    for path, leaf, value in _held({n: tensor(f"{TRAINED}.{n}") for n in plan.train}, model):
        inner = f"{correspondence.copies}." if path in norms else ""
        found[f"{correspondence.root}{path}.{inner}{leaf}"] = value
    if rest:
        _check_ends(rest, model)
    return Training({"modules_to_save": rest} if rest else {}, found, norms)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.lower().endswith("norm")


def _held(trained: Mapping[str, Tensor], model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Path, leaf and value, once for each module that holds a parameter."""
    ties = tied_names(model)
    for own, value in trained.items():
        for name in ties[own]:
            path, _, leaf = name.rpartition(".")
            yield path, leaf, value


def _whole_modules(names: Sequence[str], model: nn.Module) -> list[str]:
    """Paths of the modules that train, those that hold a tied parameter all of them.

    Raises:
        PeftError: I909, one trains in part.
    """
    ties = tied_names(model)
    every = {name for own in names for name in ties[own]}
    modules = sorted({name.rpartition(".")[0] for name in every})
    for path in modules:
        for leaf in base_parameters(model.get_submodule(path)):
            if f"{path}.{leaf}" not in every:
                raise PeftError(
                    f"{path} trains in part, without its `{leaf}`; PEFT trains a module whole",
                    code="I909",
                    help="train the whole module, or export merged: `peftlang convert --merged`",
                )
    return modules


def _check_ends(modules: Sequence[str], model: nn.Module) -> None:
    """PEFT takes a module whose path merely ends like this; no other may."""
    for path, _ in own_modules(model):
        if path not in modules and any(path.endswith(name) for name in modules if name):
            raise PeftError(
                f"PEFT would save {path} besides {', '.join(modules)}",
                code="I909",
                help="export merged: `peftlang convert --merged`",
            )
