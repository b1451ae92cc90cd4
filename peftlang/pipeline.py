"""The way through: a spec and a model in, an adapted model out. The passes, in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from peftlang.capture import RECOMPILE_LIMIT, CapturedGraph, capture, inner_backend
from peftlang.diagnostics import PeftError
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter
from peftlang.ir.plan import Plan, Site
from peftlang.lower import build
from peftlang.lower import load as load_spec
from peftlang.models import example_inputs as inputs_of
from peftlang.passes.admit import check_admitted
from peftlang.passes.annotate import annotate
from peftlang.passes.decompose import decompose, write_out
from peftlang.passes.entering import Entering, entering, with_beside
from peftlang.passes.experts import check_experts
from peftlang.passes.hide import hide
from peftlang.passes.insert import insert
from peftlang.passes.lift import lift
from peftlang.passes.missing import found_instead
from peftlang.passes.modules import modules
from peftlang.passes.prompts import prompts
from peftlang.passes.resolve import resolve
from peftlang.passes.rewriting import ActivePlan, Rewriting
from peftlang.passes.roles import roles
from peftlang.passes.rooms import prompts_inside
from peftlang.passes.sequences import check_sequences, named_ids
from peftlang.passes.share import share
from peftlang.runtime import adapted as state
from peftlang.runtime import disk
from peftlang.runtime.adapted import Adapted, AdapterRecord
from peftlang.runtime.control import remove
from peftlang.runtime.sequences import prompt_site, special_ids, why_no_prompt
from peftlang.runtime.store import STORE, create

Model = TypeVar("Model", bound=nn.Module)

PLAN_PASSES = ("roles", "resolve", "share")
"""Passes over the plan, once per adapter; ``roles`` reads the model's own graphs."""

GRAPH_PASSES: tuple[Callable[[Rewriting], None], ...] = (
    decompose,
    annotate,
    prompts,
    hide,
    insert,
    lift,
)
"""Passes over each graph that Dynamo captures, in order."""

Observer = Callable[[str, str, Any], None]
"""Called with ("before" or "after", the pass's name, what it works on)."""


@dataclass(frozen=True)
class Survey:
    """What is known of a model's positions: its graphs and every site found in them.

    ``containers`` are the modules that have no role of their own: what a path may name besides.
    """

    graphs: list[CapturedGraph]
    sites: list[Site]
    containers: list[Site]
    no_prompt: str = ""
    entering: Entering = field(default_factory=Entering)

    def why_missing(self, role: str) -> str:
        """What there is instead of a role that has no site at all; "" where nothing is like it."""
        if role.startswith("prompt"):
            return self.no_prompt if role == "prompt" else self.entering.reason
        return found_instead(role, self.graphs, self.sites)


def survey(model: nn.Module, example_inputs: Mapping[str, Any] | None = None) -> Survey:
    """Find every site of a model by reading its graphs; weights are not touched.

    Args:
        model: Any module, on any device, the meta device included.
        example_inputs: Keyword arguments of its forward; made from its config when not given.

    Raises:
        PeftError: C7xx, inputs cannot be made or the model cannot be captured.
    """
    if not isinstance(example_inputs, Mapping | None):
        raise PeftError(
            f"example_inputs is a {type(example_inputs).__name__}, not a dict", code="C707",
            help="give the arguments of the model's forward by name, "
            "as {'input_ids': tensor}",
        )  # fmt: skip
    inputs = dict(example_inputs) if example_inputs is not None else inputs_of(model)
    with _doors_transparent(model):
        graphs = capture(model, inputs)
    for graph in graphs:
        write_out(graph)
    sites = roles(graphs)
    prompt = prompt_site(model, sites)
    ahead = ([prompt] if prompt else []) + prompts_inside(graphs, sites)
    inside = entering(graphs, ahead, sites)
    found = sites + ahead + inside.sites
    return Survey(graphs, found, modules(graphs, sites), why_no_prompt(model), inside)


@contextmanager
def _doors_transparent(model: nn.Module) -> Iterator[None]:
    """An adapted model is surveyed as the base that it is."""
    found = model.__dict__.get(state.STATE)
    if not isinstance(found, Adapted):
        yield
        return
    before, found.inside = found.inside, True
    try:
        yield
    finally:
        found.inside = before


def plan(
    adapter: Adapter, model: nn.Module, surveyed: Survey, observe: Observer | None = None
) -> Plan:
    """Resolve an adapter against a model, and share its tensors.

    Raises:
        PeftError: S4xx, a selector, name or size does not fit the model.
    """
    seen = observe or _nobody
    seen("after", "roles", surveyed.sites)
    seen("before", "resolve", adapter)
    shapes = {
        name: tuple(p.shape)
        for name, p in model.named_parameters()
        if not name.startswith(f"{STORE}.")
    }
    sites = surveyed.sites + surveyed.containers
    resolved = resolve(named_ids(adapter, special_ids(model)), sites, shapes, surveyed.why_missing)
    resolved = with_beside(resolved, sites, surveyed.entering.tables)
    check_sequences(resolved, sites)
    check_experts(resolved)
    check_admitted([ActivePlan("", resolved)])
    seen("after", "resolve", resolved)
    seen("before", "share", resolved)
    shared = share(resolved)
    seen("after", "share", shared)
    return shared


def rewriter(observe: Observer | None = None) -> Callable[[Rewriting], None]:
    """The graph passes as one function; each leaves graphs that lint."""
    seen = observe or _nobody

    def rewrite(work: Rewriting) -> None:
        for step in GRAPH_PASSES:
            seen("before", step.__name__, work)
            step(work)
            for graph in work.graphs:
                graph.gm.graph.lint()
                graph.gm.recompile()
            seen("after", step.__name__, work)

    return rewrite


def _nobody(_when: str, _step: str, _subject: Any) -> None:
    """Observe nothing."""


def compile(  # noqa: A001 -- the word of the trade, and of torch
    model: Model,
    spec: str | Path,
    /,
    *,
    adapter_name: str = "default",
    entry: str | None = None,
    at: str | None = None,
    overrides: Sequence[str] = (),
    args: Mapping[str, Scalar] | None = None,
    init_seed: int = 0,
    param_dtype: torch.dtype | None = None,
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
    recompile_limit: int = RECOMPILE_LIMIT,
    observe: Observer | None = None,
    **hyper_parameters: Scalar,
) -> Model:
    """Adapt a model with a spec, in place: the same object, of the same class.

    The base is frozen; what trains is the adapter's. The adapter acts at once, besides those
    that already do.

    Args:
        model: A Hugging Face model or any ``nn.Module``.
        spec: A ``.peft`` file, a name in the standard library (``"lora"``), or spec text.
        adapter_name: The adapter's name on the model.
        entry: Which adapter or method of the spec; needed when it has several.
        at: A selector that replaces the position of every use.
        overrides: Clauses that replace those of every use: ``"insertion sequential"``.
        args: Hyper-parameters, for names that are also options of this function.
        init_seed: Seed of the adapter's tensors.
        param_dtype: Number type of the adapter's parameters. None takes the base's;
            ``torch.float32`` keeps full-precision masters, brought to the base's type at use.
        backend: What runs rewritten graphs: ``"eager"``, ``"inductor"``, or any backend of
            ``torch.compile``.
        example_inputs: Keyword arguments of the model's forward; made from its config when
            not given.
        recompile_limit: How many kinds of input one frame may be compiled for.
        observe: Called before and after each pass.
        **hyper_parameters: Values of the spec's hyper-parameters.

    Returns:
        ``model``.

    Raises:
        PeftError: the spec, an argument, or their fit to the model is wrong; the model is then
            as it was.
    """
    built = build(load_spec(spec), entry, {**(args or {}), **hyper_parameters}, at, overrides)
    if isinstance(backend, str):
        inner_backend(backend)
    return _install(
        model, built, adapter_name, init_seed=init_seed, param_dtype=param_dtype,
        backend=backend, example_inputs=example_inputs, recompile_limit=recompile_limit,
        observe=observe,
    )  # fmt: skip


def _install(
    model: Model,
    built: Adapter,
    adapter_name: str,
    *,
    init_seed: int,
    param_dtype: torch.dtype | None,
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
    recompile_limit: int = RECOMPILE_LIMIT,
    observe: Observer | None = None,
) -> Model:
    present = model.__dict__.get(state.STATE)
    _check_name(adapter_name, present)
    surveyed = survey(model, example_inputs)
    made = plan(built, model, surveyed, observe)
    tensors = create(made, model, seed=init_seed, dtype=param_dtype)
    if present is None:
        present = Adapted(model, rewriter(observe), inner=backend, recompile_limit=recompile_limit)
        model.__dict__[state.STATE] = present
    state.freeze(model)
    present.add(adapter_name, AdapterRecord(made, init_seed), tensors)
    return model


def _check_name(name: str, present: Adapted | None) -> None:
    if not name or "." in name or "+" in name or hasattr(nn.ModuleDict(), name):
        raise PeftError(
            f"`{name}` cannot be an adapter's name",
            code="R511",
            help="use letters, digits, `_` and `-`, and no name of a method of torch's modules",
        )
    if present is not None and name in present.records:
        raise PeftError(
            f"the model already has an adapter `{name}`",
            code="R511",
            help="give another adapter_name, or peftlang.remove(model, name) first",
        )


def save(model: nn.Module, folder: str | Path, *, adapter_name: str | None = None) -> Path:
    """Write one adapter to a folder: spec, plan, tensors, and the base's fingerprint.

    The folder is written beside its place and renamed, so that a failure leaves what was there.

    Args:
        model: An adapted model.
        folder: Where to; replaced when it holds a saved adapter already.
        adapter_name: Which adapter; needed when the model has several.

    Raises:
        PeftError: R504, R505, no such adapter; D604, it cannot be written.
    """
    found = state.of(model)
    if adapter_name is None and len(found.records) > 1:
        raise PeftError(
            "the model has several adapters: " + ", ".join(found.records),
            code="R504",
            help="say which: peftlang.save(model, folder, adapter_name=...)",
        )
    name = adapter_name or next(iter(found.records))
    record = found.require(name)
    return disk.write(Path(folder), record, found.tensors(name), model)


def load(
    model: Model,
    folder: str | Path,
    /,
    *,
    adapter_name: str = "default",
    param_dtype: torch.dtype | None = None,
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
) -> Model:
    """Put a saved adapter on its base model; see ``compile`` for the options.

    Raises:
        PeftError: D601, D602, the folder is missing or damaged; D603, it was made on another
            base; D605, it is of a newer version. The model is then as it was.
    """
    saved = disk.read(Path(folder))
    disk.check_base(saved, model)
    built = build(load_spec(saved.source), saved.entry)
    had = state.STATE in model.__dict__
    _install(
        model, built, adapter_name, init_seed=saved.seed, param_dtype=param_dtype,
        backend=backend, example_inputs=example_inputs,
    )  # fmt: skip
    try:
        disk.fill(saved, state.of(model).tensors(adapter_name))
    except PeftError:
        remove(model, adapter_name)
        raise
    assert had or state.STATE in model.__dict__
    return model


def base_of(folder: str | Path) -> str:
    """The name of the model that a saved adapter was made on: a hub id, a folder, or a preset.

    Raises:
        PeftError: D601, D602, D605, as for ``load``; D606, the model had no name.
    """
    name = str(disk.read(Path(folder)).base.get("name") or "")
    if not name:
        raise PeftError(
            f"{folder} does not say which model it was made on",
            code="D606",
            help="name the model: `--model ID`",
        )
    return name
