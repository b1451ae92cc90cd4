"""An adapter on a whole model against a reference of the whole model."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.ir.plan import TRAINED, Placement
from peftlang.ir.sizes import site_sizes
from peftlang.verifying.adapted_model import AdaptedModel, output_of
from peftlang.verifying.comparing import checked, largest, unchanged
from peftlang.verifying.references.python_reference import PythonReference, describe
from peftlang.verifying.references.reference import KnownSite, Params, Reference, with_functions
from peftlang.verifying.references.spec_reference import SpecReference
from peftlang.verifying.search import Violation

Tensors = dict[str, Tensor]

FAINT = 1e-4
"""A gradient this much smaller than the model's largest is held to that one."""


@dataclass(frozen=True)
class ModelSite(KnownSite):
    """A site as a reference of a whole model sees it; sizes and arguments are attributes too.

    Attributes:
        role: ``attn.q``, ``ffn``, …
        path: Path of the module.
        layer: Index in its stack; None outside of one.
        use: The use of a method that acts there.
        params: The method's tensors there; shared ones are the same object at every site.
        args: The method's hyper-parameters; one of the type ``fn`` is a function of a tensor.
        sizes: d_x, d_h, heads, …
    """

    role: str
    path: str
    layer: int | None
    use: str
    params: Params
    args: Mapping[str, Any]
    sizes: Mapping[str, int]


def equals_model(adapted: AdaptedModel, reference: Reference) -> float:
    """Largest relative error of the output and of every trained tensor's gradient.

    Args:
        adapted: The spec on a model.
        reference: A file with ``reference_model``, or another spec.

    Raises:
        Violation: something differs.
        PeftError: V8xx, the reference gives no usable answer.
    """
    adapted.randomise()
    tensors = adapted.view.tensors()
    if isinstance(reference, SpecReference):
        own, run = _another(adapted, reference, tensors)
    else:
        assert isinstance(reference, PythonReference)
        own, run = _from_file(adapted, reference, tensors)
    ours, theirs = adapted.run(), run()
    _check(theirs, ours, reference.name)
    error = checked("the model's output", ours, theirs, "float32")
    trained = adapted.view.parameters()
    got = _gradients(ours, {n: tensors[n] for n in trained})
    wanted = _gradients(theirs, {n: own[n] for n in trained})
    floor = FAINT * largest(wanted)
    for name, gradient in wanted.items():
        what = f"gradient of {name}"
        error = max(error, checked(what, got[name], gradient, "float32", floor=floor))
    return error


def trains_alike(adapted: AdaptedModel, reference: PythonReference) -> float:
    """The base's parameters that train are those that the file's ``trained`` names.

    Raises:
        Violation: one is missing, or one too many.
        PeftError: V803, V804, ``trained`` is not usable.
    """
    wanted = reference.call("trained", {"model": _copy(adapted.base)}, f"the model {adapted.name}")
    names = {name for name, _ in adapted.base.named_parameters()}
    if not isinstance(wanted, set | frozenset | list | tuple) or not set(wanted) <= names:
        raise PeftError(
            f"`trained` of {reference.name} returned {describe(wanted)}",
            code="V804",
            help="return a set of names that `model.named_parameters()` gives",
        )
    got = set(adapted.view.plan.train)
    if got - set(wanted):
        raise Violation(note=f"`{min(got - set(wanted))}` trains, and should not")
    if set(wanted) - got:
        raise Violation(note=f"`{min(set(wanted) - got)}` does not train, and should")
    return 0.0


def _from_file(
    adapted: AdaptedModel, reference: PythonReference, tensors: Tensors
) -> tuple[Tensors, Callable[[], Tensor]]:
    """The tensors that a file is given, and its model called with them."""
    own = _leaves(adapted, tensors)
    kept = {name: value.detach().clone() for name, value in own.items()}
    plan, where = adapted.view.plan, f"the model {adapted.name}"
    given: dict[str, Any] = {
        **adapted.given,
        "model": _copy(adapted.base),
        "sites": [_site(adapted, p, site, own) for p in plan.placements for site in p.sites],
        "params": Params(own),
        "trained": {name: own[f"{TRAINED}.{name}"] for name in plan.train},
    }
    model = reference.call("reference_model", given, where)
    if not callable(model):
        raise PeftError(
            f"`reference_model` of {reference.name} returned {describe(model)}",
            code="V804",
            help="return a module, or a function that takes what the model takes",
        )

    def once() -> Tensor:
        found = reference.guard(lambda: model(**copy.deepcopy(adapted.inputs)), where)
        try:
            return output_of(found)
        except (StopIteration, TypeError):
            raise PeftError(
                f"`reference_model` of {reference.name} gives {describe(found)}",
                code="V804",
                help="its result is called with the model's inputs, and gives the model's output",
            ) from None

    def run() -> Tensor:
        first = once()
        with torch.no_grad():
            again = once()
        if first.shape != again.shape or not unchanged(again, first):
            raise PeftError(
                f"{reference.name} gives two answers for the same inputs",
                code="V809",
                help="it keeps something from call to call, or draws random numbers",
            )
        for name, value in own.items():
            if not unchanged(value, kept[name]):
                raise PeftError(
                    f"{reference.name} changes `{name}`, which it is given to read",
                    code="V808",
                    help="compute a new tensor",
                )
        return first

    return own, run


def _leaves(adapted: AdaptedModel, tensors: Tensors) -> Tensors:
    trained = adapted.view.parameters()
    return {n: t.detach().clone().requires_grad_(n in trained) for n, t in tensors.items()}


def _copy(base: nn.Module) -> nn.Module:
    return copy.deepcopy(base).requires_grad_(False)


def _site(adapted: AdaptedModel, placement: Placement, site_id: str, own: Tensors) -> ModelSite:
    plan = adapted.view.plan
    site, use = plan.sites[site_id], plan.uses[placement.label]
    params = {n: own[group] for n, group in placement.tensors.get(site_id, {}).items()}
    args = with_functions(use.method, use.args)
    sizes = {**site_sizes(use.method, use.args, site), **site.dims}
    return ModelSite(site.role, site.path, site.layer, use.label, Params(params), args, sizes)


def _another(
    adapted: AdaptedModel, reference: SpecReference, tensors: Tensors
) -> tuple[Tensors, Callable[[], Tensor]]:
    """Another spec on the same model, with tensors of the same names given the same values."""
    other = AdaptedModel(reference.subject, adapted.name)
    theirs = other.view.tensors()
    apart = sorted(set(theirs) ^ set(tensors))
    if apart:
        whose = adapted.subject.name if apart[0] in tensors else reference.name
        raise PeftError(
            f"on {adapted.name}, only `{whose}` has `{apart[0]}`",
            code="V811",
            help="compare adapters whose tensors have the same names",
        )
    with torch.no_grad():
        for name, value in theirs.items():
            value.copy_(tensors[name])
    other.given = adapted.given
    return theirs, other.run


def _check(theirs: Tensor, ours: Tensor, name: str) -> None:
    if theirs.shape != ours.shape:
        raise PeftError(
            f"{name} returned an output of shape {list(theirs.shape)}, and the adapted model's is "
            f"{list(ours.shape)}",
            code="V805",
            help="tokens that a prompt adds are not part of the output",
        )
    if not bool(torch.isfinite(theirs).all()) and bool(torch.isfinite(ours).all()):
        raise PeftError(f"{name} returned an output that is not finite", code="V806")
    if ours.requires_grad and not theirs.requires_grad:
        raise PeftError(
            f"{name} returned an output that cannot be differentiated",
            code="V807",
            help="use the tensors that it is given, and no `.detach()` around the whole of it",
        )


def _gradients(output: Tensor, wanted: Tensors) -> Tensors:
    if not wanted or not output.requires_grad:
        return {name: torch.zeros_like(value) for name, value in wanted.items()}
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(output.shape, generator=generator).to(output)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        (output * weights).sum(), list(wanted.values()), allow_unused=True
    )
    pairs = zip(wanted.items(), found, strict=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}
