"""The spec that a folder amounts to: imports, uses, selectors, and what trains."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from torch import nn

from peftlang.capture import base_parameters
from peftlang.diagnostics import PeftError
from peftlang.interop.forms import definitions, is_text, method_of
from peftlang.interop.reading import PROMPT, Module, Reading
from peftlang.ir.expr import Scalar
from peftlang.ir.plan import Site
from peftlang.ir.selector import LayerRange, Selector, Target
from peftlang.sites.select import select
from peftlang.sites.survey import Survey
from peftlang.syntax import format_text


def spec_text(reading: Reading, model: nn.Module, surveyed: Survey) -> str:
    """The text of a spec with one adapter, in the one layout.

    Raises:
        PeftError: I905, the folder changes nothing of this model.
    """
    uses = [f"    {_use(group)} at {_selector(group, surveyed)}" for group in _groups(reading)]
    trains = [f'    train "{name}"' for name in _trained(reading, model)]
    if not uses and not trains:
        raise PeftError("the folder adapts no module", code="I905", help="give another folder")
    specs = dict.fromkeys(module.form.spec for module in reading.modules)
    imports = [f"from {spec} import {spec}" for spec in specs if not is_text(spec)]
    methods = [spec for spec in specs if is_text(spec)]
    doc = f'"""Read from a folder of Hugging Face PEFT ({reading.kind})."""'
    body = "\n".join([*uses, *trains])
    name = f"hf_{reading.kind.lower()}"
    parts = [*imports, *methods, f"{doc}\nadapter {name} {{\n{body}\n}}"]
    return format_text("\n\n".join(parts) + "\n")


def _groups(reading: Reading) -> list[list[Module]]:
    """Modules that one use covers, in order of their first."""
    groups: dict[object, list[Module]] = {}
    for module in reading.modules:
        shared = any(d.shared for d in definitions(module.form).values())
        shape = (module.site.dims.get("d_x"), module.site.dims.get("d_h")) if shared else None
        key = (module.form.spec, tuple(module.hypers.items()), shape)
        groups.setdefault(key, []).append(module)
    return list(groups.values())


def _use(group: Sequence[Module]) -> str:
    first = group[0]
    arguments = ", ".join(f"{name} = {_literal(value)}" for name, value in first.hypers.items())
    name = method_of(first.form.spec).name
    return f"{name}({arguments})" if arguments else name


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _selector(group: Sequence[Module], surveyed: Survey) -> str:
    if group[0].place == PROMPT:
        return "prompt"
    if group[0].form.place == "core":
        return "attn.core"
    sites = [*surveyed.sites, *surveyed.containers]
    wanted = {module.site.id: module.site for module in group}
    by_shape = groupby(sorted(wanted.values(), key=_numberless), key=_numberless)
    targets = [target for glob, found in by_shape for target in _targets(glob, list(found), sites)]
    return str(Selector(targets=tuple(targets)))


def _numberless(site: Site) -> str:
    return ".".join("*" if part.isdigit() else part for part in site.path.split("."))


def _targets(glob: str, wanted: Sequence[Site], sites: Sequence[Site]) -> list[Target]:
    """The fewest alternatives that mean exactly these sites."""
    ids = {site.id for site in wanted}
    layers = sorted({site.layer for site in wanted if site.layer is not None})
    every = Target(kind="glob", text=glob)
    for target in (every, every.model_copy(update={"layers": _ranges(layers)})):
        if {site.id for site in select(Selector(targets=(target,)), sites)} == ids:
            return [target]
    return [Target(kind="glob", text=site.path) for site in wanted]


def _ranges(numbers: Iterable[int]) -> tuple[LayerRange, ...]:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return tuple(LayerRange(first=first, last=last) for first, last in runs)


def _trained(reading: Reading, model: nn.Module) -> list[str]:
    """Names for ``train``: a whole module where all of its parameters train."""
    found, left = [], dict.fromkeys(reading.trained)
    for name in list(left):
        module = name.rpartition(".")[0]
        own = [f"{module}.{leaf}" for leaf in base_parameters(model.get_submodule(module))]
        if name in left and len(own) > 1 and all(other in left for other in own):
            found.append(module)
            for other in own:
                del left[other]
    return found + list(left)
