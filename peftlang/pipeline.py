"""The way through: a spec and a model in, an adapted model out. The passes, in order."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from peftlang.capture import Weights, record
from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.emit.rewriting import Rewriting
from peftlang.ir.expr import Scalar
from peftlang.ir.method import Adapter
from peftlang.ir.plan import Plan
from peftlang.lower import build
from peftlang.lower import load as load_spec
from peftlang.models import example_inputs as inputs_of
from peftlang.passes.annotate import annotate
from peftlang.passes.check import check
from peftlang.passes.decompose import decompose
from peftlang.passes.insert import insert
from peftlang.passes.mask import mask
from peftlang.passes.prompts import prompts
from peftlang.passes.regions import regions
from peftlang.passes.resolve import resolve
from peftlang.passes.roles import roles
from peftlang.passes.share import share
from peftlang.passes.simplify import simplify
from peftlang.prompts.cache import prepare_generation
from peftlang.prompts.sequences import special_ids
from peftlang.runtime import disk
from peftlang.runtime import registry as state
from peftlang.runtime.holders import create
from peftlang.runtime.registry import AdapterRecord, Registry
from peftlang.runtime.shards import settle
from peftlang.sites import kept
from peftlang.sites.planning import Planning
from peftlang.sites.survey import Survey

Model = TypeVar("Model", bound=nn.Module)

PLAN: tuple[Callable[[Planning], None], ...] = (roles, resolve, share, check, regions)
"""Passes over a plan, in order. The first finds a model's sites, once for all adapters."""

GRAPH: tuple[Callable[[Rewriting], None], ...] = (
    *(decompose, annotate, prompts, mask, insert, simplify),
)
"""Passes over the graph of each region that an adapter acts in, in order."""

OPTIONAL: frozenset[str] = frozenset({"simplify"})
"""Passes that can be left out: what is computed is the same without them."""

PASSES: tuple[str, ...] = tuple(step.__name__ for step in (*PLAN, *GRAPH))
"""Names of all passes, in order."""

Observer = Callable[[str, str, Any], None]
"""Called with ("before" or "after", the pass's name, what it works on)."""

Work = TypeVar("Work", Planning, Rewriting)


def _through(
    steps: Sequence[Callable[[Work], None]],
    work: Work,
    observers: Sequence[Observer],
    without: Collection[str],
) -> None:
    """Run passes in order, but for those that are left out."""
    for step in steps:
        if step.__name__ in without:
            continue
        for observe in observers:
            observe("before", step.__name__, work)
        step(work)
        if isinstance(work, Rewriting):
            work.graph.lint()
        for observe in observers:
            observe("after", step.__name__, work)


def survey(
    model: nn.Module,
    example_inputs: Mapping[str, Any] | None = None,
    observe: Observer | None = None,
) -> Survey:
    """Find every site of a model by reading its graph; weights are not touched.

    What was found is kept with an adapted model, and for others of the same class, config and
    shapes (``peftlang cache``).

    Args:
        model: Any module, on any device, the meta device included.
        example_inputs: Keyword arguments of its forward; made from its config when not given.
        observe: Called before and after the pass that finds them.

    Raises:
        PeftError: C7xx, inputs cannot be made or the model cannot be read; R522, part of it is
            scripted.
    """
    if not isinstance(example_inputs, Mapping | None):
        raise PeftError(
            f"example_inputs is a {type(example_inputs).__name__}, not a dict",
            code="C707",
            help="give the arguments of the model's forward by name, as {'input_ids': tensor}",
        )
    _check_readable(model)
    inputs = dict(example_inputs) if example_inputs is not None else inputs_of(model)
    # Who observes a pass sees it run.
    name = kept.name_of(model, inputs) if observe is None else None
    found = kept.find(name) if name is not None else None
    if found is None:
        work = Planning(model, Adapter(name=""), graph=record(model, inputs))
        _through(PLAN[:1], work, _list_of(observe), ())
        found = work.survey
        if name is not None:
            kept.keep(name, found)
    return found


def plan(
    adapter: Adapter,
    model: nn.Module,
    surveyed: Survey,
    observe: Observer | None = None,
    without: Collection[str] = (),
) -> Plan:
    """Resolve an adapter against a model, share its tensors, and choose where they act.

    Args:
        adapter: The adapter.
        model: The model; of its tensors, shapes and number types alone count.
        surveyed: Its sites.
        observe: Called before and after each pass.
        without: Names of passes that are left out.

    Raises:
        PeftError: S4xx, a selector, name or size does not fit the model.
    """
    weights = Weights(model)
    shapes = {name: weights.shape(name) for name in weights if weights.is_plain(name)}
    work = Planning(model, adapter, shapes, special_ids(model), found=surveyed)
    _through(PLAN[1:], work, _list_of(observe), without)
    return work.plan


def _list_of(observe: Observer | None) -> list[Observer]:
    return [observe] if observe is not None else []


class Rewriter:
    """The graph passes as one function; each leaves a graph that lints.

    A pass that one of the adapters in a graph was compiled without is left out there.
    """

    def __init__(self) -> None:
        self._observers: dict[str, Observer] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Who observes stays in this process."""
        return {"_observers": {}}

    def observed(self, adapter: str, observe: Observer | None) -> None:
        """Say who sees the passes over graphs in which an adapter acts."""
        self._observers.pop(adapter, None)
        if observe is not None:
            self._observers[adapter] = observe

    def __call__(self, work: Rewriting) -> None:
        """Rewrite one region's graph."""
        without = {name for adapter in work.active for name in adapter.without}
        names = [adapter.name for adapter in work.active if adapter.name in self._observers]
        observers = dict.fromkeys(self._observers[name] for name in names)
        _through(GRAPH, work, list(observers), without)


def check_without(names: Sequence[str]) -> None:
    """Refuse to leave out what is no pass, or is needed.

    Raises:
        PeftError: R524.
    """
    optional = ", ".join(f"`{name}`" for name in sorted(OPTIONAL))
    if isinstance(names, str):
        raise PeftError(
            f"without is the text {names!r}, not a list of passes",
            code="R524",
            help=f"write without=[{names!r}]",
        )
    for name in names:
        if name not in PASSES:
            raise PeftError(
                f"there is no pass `{name}`",
                code="R524",
                help=did_you_mean(name, PASSES) or f"what can be left out: {optional}",
            )
        if name not in OPTIONAL:
            raise PeftError(
                f"the pass `{name}` cannot be left out: without it the adapted model would be "
                "another, or none",
                code="R524",
                help=f"what can be left out: {optional}",
            )


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
    without: Sequence[str] = (),
    observe: Observer | None = None,
    **hyper_parameters: Scalar,
) -> Model:
    """Adapt a model with a spec, in place: the same object, of a class that derives from its own.

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
        backend: ``"eager"`` runs the model as Python does; any backend of ``torch.compile``
            (``"inductor"``) has torch compile the adapted model, as ``model.compile()`` would.
        example_inputs: Keyword arguments of the model's forward; made from its config when
            not given.
        without: Names of passes to be left out wherever this adapter acts: ``["simplify"]``.
            What is computed is the same without them.
        observe: Called before and after each pass.
        **hyper_parameters: Values of the spec's hyper-parameters.

    Returns:
        ``model``.

    Raises:
        PeftError: the spec, an argument, or their fit to the model is wrong; the model is then
            as it was.
    """
    check_without(without)
    built = build(load_spec(spec), entry, {**(args or {}), **hyper_parameters}, at, overrides)
    check_backend(backend)
    return install(
        model,
        built,
        adapter_name,
        init_seed=init_seed,
        param_dtype=param_dtype,
        backend=backend,
        example_inputs=example_inputs,
        observe=observe,
        without=without,
    )


def check_backend(backend: str | Callable[..., Any]) -> None:
    """Refuse a backend of ``torch.compile`` that torch does not have.

    Raises:
        PeftError: R508.
    """
    known = ["eager", *torch.compiler.list_backends(exclude_tags=())]
    if isinstance(backend, str) and backend not in known:
        raise PeftError(
            f"torch has no backend `{backend}`",
            code="R508",
            help=did_you_mean(backend, known) or "one of " + ", ".join(sorted(known)),
        )


def install(
    model: Model,
    built: Adapter,
    adapter_name: str,
    *,
    init_seed: int,
    param_dtype: torch.dtype | None,
    backend: str | Callable[..., Any] = "eager",
    example_inputs: Mapping[str, Any] | None = None,
    observe: Observer | None = None,
    without: Sequence[str] = (),
) -> Model:
    """Put a built adapter on a model; see ``compile``.

    Raises:
        PeftError: the adapter does not fit the model, which is then as it was.
    """
    settle(model)
    present = state.find(model)
    _check_name(adapter_name, present)
    _check_readable(model)
    known = present is not None and example_inputs is None
    surveyed = present.survey if present and known else survey(model, example_inputs, observe)
    made = plan(built, model, surveyed, observe, without)
    tensors = create(adapter_name, made, model, seed=init_seed, dtype=param_dtype)
    if present is None:
        present = Registry(model, survey, Rewriter(), disk.write_all)
        model.__dict__[state.STATE] = present
    present.surveyed(surveyed)
    assert isinstance(present.rewrite, Rewriter)
    present.rewrite.observed(adapter_name, observe)
    state.freeze(model)
    try:
        present.add(adapter_name, AdapterRecord(made, init_seed, tuple(without)), tensors)
    except BaseException:
        present.remove(adapter_name)
        raise
    prepare_generation(model, (record.plan for record in present.records.values()))
    if backend != "eager":
        model.compile(backend=backend)
    return model


def _check_readable(model: nn.Module) -> None:
    """A scripted module's forward is code of its own, of which nothing can be read or changed."""
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"`{path}`" if path else "the model"
            raise PeftError(
                f"{where} is scripted, so an adapter can neither be placed in it nor around it",
                code="R522",
                help="adapt the model before torch.jit.script or torch.jit.trace",
            )


def _check_name(name: str, present: Registry | None) -> None:
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
