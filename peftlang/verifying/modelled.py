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
from peftlang.verifying.comparing import checked
from peftlang.verifying.files import PythonReference, describe
from peftlang.verifying.fitted import Fitted, output_of
from peftlang.verifying.others import SpecReference
from peftlang.verifying.references import Known, Params, Reference, activation
from peftlang.verifying.running import Broken

Tensors = dict[str, Tensor]

FAINT = 1e-4
"""A gradient this much smaller than the model's largest is held to that one."""


@dataclass(frozen=True)
class ModelSite(Known):
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


def equals_model(fitted: Fitted, reference: Reference) -> float:
    """Largest relative error of the output and of every trained tensor's gradient.

    Args:
        fitted: The spec on a model.
        reference: A file with ``reference_model``, or another spec.

    Raises:
        Broken: something differs.
        PeftError: V8xx, the reference gives no usable answer.
    """
    fitted.randomise()
    tensors = fitted.view.tensors()
    if isinstance(reference, SpecReference):
        own, run = _another(fitted, reference, tensors)
    else:
        assert isinstance(reference, PythonReference)
        own, run = _from_file(fitted, reference, tensors)
    ours, theirs = fitted.run(), run()
    _check(theirs, ours, reference.name)
    error = checked("the model's output", ours, theirs, "float32")
    trained = fitted.view.parameters()
    got = _gradients(ours, {n: tensors[n] for n in trained})
    wanted = _gradients(theirs, {n: own[n] for n in trained})
    scale = max((float(g.abs().max()) for g in wanted.values()), default=0.0)
    for name, gradient in wanted.items():
        what = f"gradient of {name}"
        error = max(error, checked(what, got[name], gradient, "float32", floor=FAINT * scale))
    return error


def trains_alike(fitted: Fitted, reference: PythonReference) -> float:
    """The base's parameters that train are those that the file's ``trained`` names.

    Raises:
        Broken: one is missing, or one too many.
        PeftError: V803, V804, ``trained`` is not usable.
    """
    wanted = reference.call("trained", {"model": _copy(fitted.base)}, f"the model {fitted.name}")
    names = {name for name, _ in fitted.base.named_parameters()}
    if not isinstance(wanted, set | frozenset | list | tuple) or not set(wanted) <= names:
        raise PeftError(
            f"`trained` of {reference.name} returned {describe(wanted)}", code="V804",
            help="return a set of names that `model.named_parameters()` gives",
        )  # fmt: skip
    got = set(fitted.view.plan.train)
    if got - set(wanted):
        raise Broken(note=f"`{min(got - set(wanted))}` trains, and should not")
    if set(wanted) - got:
        raise Broken(note=f"`{min(set(wanted) - got)}` does not train, and should")
    return 0.0


def _from_file(
    fitted: Fitted, reference: PythonReference, tensors: Tensors
) -> tuple[Tensors, Callable[[], Tensor]]:
    own = _leaves(fitted, tensors)
    kept = {name: value.detach().clone() for name, value in own.items()}
    placements = fitted.view.plan.placements
    given: dict[str, Any] = {
        "model": _copy(fitted.base),
        "sites": [_site(fitted, p, site, own) for p in placements for site in p.sites],
        "params": Params(own),
        "trained": {name: own[f"{TRAINED}.{name}"] for name in fitted.view.plan.train},
        **fitted.given,
    }
    where = f"the model {fitted.name}"
    model = reference.call("reference_model", given, where)
    if not callable(model):
        raise PeftError(
            f"`reference_model` of {reference.name} returned {describe(model)}", code="V804",
            help="return a module, or a function that takes what the model takes",
        )  # fmt: skip

    def once() -> Tensor:
        found = reference.guard(lambda: model(**copy.deepcopy(fitted.inputs)), where)
        try:
            return output_of(found)
        except (StopIteration, TypeError):
            raise PeftError(
                f"`reference_model` of {reference.name} gives {describe(found)}", code="V804",
                help="its result is called with the model's inputs, and gives the model's output",
            ) from None  # fmt: skip

    def run() -> Tensor:
        first = once()
        with torch.no_grad():
            again = once()
        if first.shape != again.shape or not torch.equal(first.nan_to_num(), again.nan_to_num()):
            raise PeftError(f"{reference.name} gives two answers for the same inputs", code="V809",
                            help="it keeps something from call to call, or draws random numbers",
                            )  # fmt: skip
        for name, value in own.items():
            if not torch.equal(value, kept[name]):
                raise PeftError(f"{reference.name} changes `{name}`, which it is given to read",
                                code="V808", help="compute a new tensor")  # fmt: skip
        return first

    return own, run


def _leaves(fitted: Fitted, tensors: Tensors) -> Tensors:
    trained = fitted.view.parameters()
    return {n: t.detach().clone().requires_grad_(n in trained) for n, t in tensors.items()}


def _copy(base: nn.Module) -> nn.Module:
    return copy.deepcopy(base).requires_grad_(False)


def _site(fitted: Fitted, placement: Placement, site_id: str, own: Tensors) -> ModelSite:
    plan = fitted.view.plan
    site, use = plan.sites[site_id], plan.uses[placement.label]
    args: dict[str, Any] = dict(use.args)
    for hyper in use.method.hypers:
        if hyper.kind == "fn":
            args[hyper.name] = activation(str(args[hyper.name]))
    params = {n: own[group] for n, group in placement.tensors.get(site_id, {}).items()}
    sizes = {**site_sizes(use.method, use.args, site), **site.dims}
    return ModelSite(site.role, site.path, site.layer, use.label, Params(params), args, sizes)


def _another(
    fitted: Fitted, reference: SpecReference, tensors: Tensors
) -> tuple[Tensors, Callable[[], Tensor]]:
    """Another spec on the same model, with tensors of the same names given the same values."""
    other = Fitted(reference.subject, fitted.name)
    theirs = other.view.tensors()
    apart = sorted(set(theirs) ^ set(tensors))
    if apart:
        whose = fitted.subject.name if apart[0] in tensors else reference.name
        raise PeftError(
            f"on {fitted.name}, only `{whose}` has `{apart[0]}`", code="V811",
            help="compare adapters whose tensors have the same names",
        )  # fmt: skip
    with torch.no_grad():
        for name, value in theirs.items():
            value.copy_(tensors[name])
    other.given = fitted.given
    return theirs, other.run


def _check(theirs: Tensor, ours: Tensor, name: str) -> None:
    if theirs.shape != ours.shape:
        raise PeftError(
            f"{name} returned an output of shape {list(theirs.shape)}, and the adapted model's is "
            f"{list(ours.shape)}", code="V805",
            help="tokens that a prompt adds are not part of the output",
        )  # fmt: skip
    if not bool(torch.isfinite(theirs).all()) and bool(torch.isfinite(ours).all()):
        raise PeftError(f"{name} returned an output that is not finite", code="V806")
    if ours.requires_grad and not theirs.requires_grad:
        raise PeftError(
            f"{name} returned an output that cannot be differentiated", code="V807",
            help="use the tensors that it is given, and no `.detach()` around the whole of it",
        )  # fmt: skip


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
