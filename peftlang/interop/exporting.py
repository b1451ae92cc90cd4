"""From an adapted model to an HF PEFT folder."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.interop import folder as files
from peftlang.interop.correspondence import Correspondence, Value
from peftlang.interop.prefixes import KEY, check, cores, joined
from peftlang.interop.reading import PROMPT, ROOT, largest_of
from peftlang.interop.recognising import ELSEWHERE, Placed, recognise
from peftlang.interop.table import TABLE
from peftlang.interop.targets import (
    as_targets,
    ends_with,
    is_transposed,
    own_modules,
    pattern_key,
    relative_key,
)
from peftlang.interop.trained import is_saved
from peftlang.interop.training import Training, training_of, whole_copies
from peftlang.ir.plan import TRAINED, Plan, Site
from peftlang.pipeline import survey
from peftlang.runtime import registry as state
from peftlang.runtime.registry import Registry
from peftlang.sites.neighbours import neighbours

TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
}
"""The `task_type` of a model, by the end of its class's name."""

HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
"""Modules that PEFT trains besides, by their names alone, where a `task_type` is given."""


def to_hf(
    model: nn.Module,
    folder: str | Path,
    /,
    *,
    adapter_name: str | None = None,
    example_inputs: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter as a folder that ``PeftModel.from_pretrained`` loads.

    What the adapter is, is found from its mathematics; names play no part.

    Args:
        model: An adapted model.
        folder: Where to; must not exist.
        adapter_name: Which adapter; needed when the model has several.
        example_inputs: As for ``compile``.

    Returns:
        The folder.

    Raises:
        PeftError: R504, R505, no such adapter; I908, it computes what no method of PEFT does; I909,
            it is placed or trained as no adapter of PEFT can be; D604, it cannot be written.
    """
    owner = state.of(model)
    name = adapter_called(owner, adapter_name)
    plan, tensors = owner.require(name).plan, owner.tensors(name)
    config, values = hf_parts(
        plan, owner.root, tensors.tensor, _Readers(owner.root, example_inputs)
    )
    if config["peft_type"] == "PREFIX_TUNING":
        trained = {each: tensors.tensor(f"{TRAINED}.{each}") for each in plan.train}
        sites = cores(list(plan.sites.values()))
        check(owner.root, name, values[KEY], sites, trained, "I909")
    return files.write(Path(folder), config, values)


def adapter_called(owner: Registry, name: str | None) -> str:
    """The adapter of that name, or the only one.

    Raises:
        PeftError: R504, there is none, or there are several and no name.
    """
    if name is not None:
        owner.require(name)
        return name
    if len(owner.records) > 1:
        raise PeftError(
            "the model has several adapters: " + ", ".join(owner.records),
            code="R504",
            help="say which: peftlang.to_hf(model, folder, adapter_name=...)",
        )
    return next(iter(owner.records))


class _Readers:
    """Which projection reads each ``ffn.act``; the model is looked at once, and only if asked."""

    def __init__(self, model: nn.Module, example_inputs: Mapping[str, Any] | None) -> None:
        self._model, self._inputs = model, example_inputs
        self._found: dict[str, Site] | None = None

    def __call__(self) -> dict[str, Site]:
        if self._found is None:
            modes = [(module, module.training) for module in self._model.modules()]
            self._model.eval()
            try:
                surveyed = survey(self._model, self._inputs)
            finally:
                for module, mode in modes:
                    module.training = mode
            self._found = dict(neighbours(surveyed.graph, surveyed.sites).reader)
        return self._found


def hf_parts(
    plan: Plan, model: nn.Module, tensor: Any, readers: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and the tensors of the folder.

    Args:
        plan: The adapter's plan.
        model: The base.
        tensor: A function from a group's name to its tensor.
        readers: See ``recognising.Readers``.

    Raises:
        PeftError: I908, I909.
    """
    if plan.placements:
        kind, placed = recognise(plan, model, tensor, readers)
        training = training_of(plan, model, tensor, [p.path for p in placed], TABLE[kind])
    else:
        kind, placed = "LN_TUNING", []
        training = whole_copies(plan, model, tensor, TABLE[kind])
    prefix = [(one.site, one.tensors) for one in placed if one.form.place == "core"]
    more, stored = joined(prefix, model) if prefix else ({}, None)
    tensors = _tensors(placed, TABLE[kind]) if stored is None else {KEY: stored}
    config = {
        "peft_type": kind,
        "base_model_name_or_path": base_name(model),
        **task_options(model, kind, training.options.get("modules_to_save", ())),
        "inference_mode": True,
        **TABLE[kind].written,
        **_targets(placed, training, model),
        **_options(placed, TABLE[kind]),
        **training.options,
        **more,
    }
    return config, {**tensors, **training.tensors}


def base_name(model: nn.Module) -> str | None:
    """Where the base came from; None where it does not say."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    return name or None


def task_options(model: nn.Module, kind: str, saved: Sequence[str] = ()) -> dict[str, Any]:
    """`task_type`, or what tells PEFT's automatic classes the model where it has none.

    Args:
        model: The base.
        kind: The `peft_type`.
        saved: `modules_to_save`. By the name of its task alone, PEFT would train a classifier's
            head as well; the task is named only where the head trains in any case.

    Raises:
        PeftError: I909, the method depends on the task and the two libraries differ there.
    """
    ends = (task for end, task in TASKS.items() if type(model).__name__.endswith(end))
    task = next(ends, None)
    if TABLE[kind].whole_model and task not in TABLE[kind].whole_model:
        raise PeftError(
            f"PEFT's {kind.replace('_', ' ').lower()} of a {type(model).__name__} is not ours: it "
            "places or returns the prompt's positions otherwise",
            code="I909",
            help="models for " + ", ".join(TABLE[kind].whole_model) + " can be exported",
        )
    names = HEADS.get(task or "", ())
    heads = [path for path, _ in own_modules(model) if path.rpartition(".")[2] in names]
    if task and all(is_saved(path, saved) for path in heads):
        return {"task_type": task}
    if TABLE[kind].whole_model:
        raise PeftError(
            f"PEFT trains {', '.join(heads)} beside a prompt, and this adapter does not",
            code="I909",
            help=f'add `train "{heads[0]}"` to the adapter',
        )
    library = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    return {"task_type": None, "auto_mapping": library}


def _targets(placed: Sequence[Placed], training: Training, model: nn.Module) -> dict[str, Any]:
    paths = [one.path for one in placed if one.form.place not in {"prompt", "core"}]
    paths += training.targets
    if not paths:
        return {}
    names = as_targets(paths, model)
    found: dict[str, Any] = {}
    for listed in {one.form.listed for one in placed if one.form.listed}:
        inside = [one.path for one in placed if one.form.listed == listed]
        part = _part(names, inside, paths)
        if part is None:
            names, part = sorted(paths), sorted(inside)
        found[listed] = part
    found["target_modules"] = names
    if any(is_transposed(model.get_submodule(path)) for path in paths):
        found["fan_in_fan_out"] = True
    return found


def _part(names: list[str] | str, inside: list[str], paths: list[str]) -> list[str] | None:
    """Those of the names that mean exactly the modules inside; None where there are none such."""
    if isinstance(names, str):
        return None
    part = [name for name in names if any(ends_with(path, name) for path in inside)]
    meant = {path for path in paths if any(ends_with(path, name) for name in part)}
    return part if meant == set(inside) else None


def _options(placed: Sequence[Placed], correspondence: Correspondence) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in {option for one in placed for option in one.form.when}:
        values = {one.form.when[option] for one in placed if option in one.form.when}
        if len(values) > 1:
            raise _differs(option, values)
        found[option] = values.pop()
    try:
        return {**found, **_hypers([(one, one.form.hypers) for one in placed], correspondence)}
    except PeftError:
        if not all(one.form.otherwise for one in placed):
            raise
        return {**found, **_hypers([(one, one.form.otherwise) for one in placed], correspondence)}


def _hypers(
    said: Sequence[tuple[Placed, Mapping[str, Value]]], correspondence: Correspondence
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in sorted({option for _, options in said for option in options}):
        values = {
            one.path: _value(one, options[option]) for one, options in said if option in options
        }
        found.update(_with_pattern(option, values, correspondence))
    return found


def _value(one: Placed, said: Value) -> Any:
    value = one.hypers[said] if isinstance(said, str) else said(one.hypers, one.site.dims)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_pattern(
    option: str, values: Mapping[str, Any], correspondence: Correspondence
) -> dict[str, Any]:
    usual = Counter(values.values()).most_common(1)[0][0]
    others = {path: value for path, value in values.items() if value != usual}
    if not others:
        return {option: usual}
    pattern = correspondence.patterns.get(option)
    if pattern is None:
        raise _differs(option, set(values.values()))
    key = relative_key if correspondence.relative else pattern_key
    return {option: usual, pattern: {key(path): value for path, value in others.items()}}


def _differs(option: str, values: set[Any]) -> PeftError:
    shown = ", ".join(sorted(map(str, values)))
    return PeftError(
        f"its sites differ in `{option}` ({shown}), which PEFT has once for all modules",
        code="I909",
        help=f"{ELSEWHERE}; or give all sites the same",
    )


def _tensors(placed: Sequence[Placed], correspondence: Correspondence) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for one in placed:
        prefix = "" if one.path == PROMPT else f"{ROOT}{one.path}."
        for name, stored in one.form.tensors.items():
            found[prefix + stored.key] = stored.layout.theirs(one.tensors[name])
    return {**found, **_common(placed, correspondence)}


def _common(placed: Sequence[Placed], correspondence: Correspondence) -> dict[str, Tensor]:
    """Buffers of all modules as one tensor, whose leading corners they are."""
    found: dict[str, Tensor] = {}
    corners = [
        (one.path, common, common.theirs(one.tensors[name].detach(), int(one.hypers["r"])))
        for one in placed
        for name, common in one.form.common.items()
    ]
    if not corners:
        return found
    largest = largest_of([one.site.dims for one in placed], int(placed[0].hypers["r"]))
    drawn = correspondence.draw(correspondence.written, largest) if correspondence.draw else {}
    for _, common, corner in sorted(corners, key=lambda each: each[2].numel()):
        # What no module reads is as the other library draws it.
        whole = found.setdefault(common.key, drawn[common.key].to(corner))
        whole[tuple(slice(0, size) for size in corner.shape)] = corner
    for path, common, corner in corners:
        held = found[common.key][tuple(slice(0, size) for size in corner.shape)]
        if not held.equal(corner):
            raise PeftError(
                f"{path} has random projections of its own, and PEFT has one pair for all",
                code="I909",
                help=f"{ELSEWHERE}; or share them `across model` before training",
            )
        if common.repeated:
            found[f"{ROOT}{path}.{common.repeated}"] = found[common.key]
    return found
