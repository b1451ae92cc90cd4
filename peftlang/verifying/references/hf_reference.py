"""``hf:NAME``: HF PEFT's own layer as what a spec is compared with. Runs that library."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.interop.correspondence import Correspondence, Form
from peftlang.interop.fitting import Misfit, infer
from peftlang.interop.forms import definitions, method_of
from peftlang.interop.table import TABLE
from peftlang.ir.expr import Scalar
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome
from peftlang.verifying.search import UnfitSite

SITE = "site"
_ROOT = f"base_model.model.{SITE}."


def hf_reference(name: str) -> "HfReference":
    """The reference of a method: its name in our library (``dora``), or a `peft_type` (``lora``).

    Raises:
        PeftError: V810, there is none of that name; I910, PEFT is not installed.
    """
    known: dict[str, tuple[str, Form]] = {}
    for kind, correspondence in TABLE.items():
        for form in correspondence.forms:
            if form.place == "module":
                known.setdefault(method_of(form.spec).name, (kind, form))
    if name not in known:
        raise PeftError(
            f"`hf:{name}` is no reference",
            code="V810",
            help=did_you_mean(name, known) or "there are " + ", ".join(f"hf:{n}" for n in known),
        )
    try:
        import_module("peft")
    except ImportError as error:
        raise PeftError(
            f"comparing with `hf:{name}` needs PEFT, which is not installed",
            code="I910",
            help="pip install peft",
        ) from error
    return HfReference(name, *known[name])


class _Site(nn.Module):
    """A base with one module."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(SITE, layer)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.get_submodule(SITE)(x)
        return found


class HfReference:
    """One method of PEFT at one site, its tensors tied to ours through the table's layouts.

    Attributes:
        name: For messages.
        training: Dropout is not compared: the two draw it in different orders.
    """

    training = False

    def __init__(self, name: str, kind: str, form: Form) -> None:
        self.name = f"hf:{name}"
        self._kind, self._form = kind, form

    def __call__(self, site: OneSite, params: Values, values: Values) -> Outcome:
        """What PEFT computes there; see `Reference`.

        Raises:
            PeftError: I907, the method's tensors are not those of this method; I905, PEFT has no
                such module.
            UnfitSite: PEFT refuses the site's sizes or number type.
        """
        inputs, weight, bias = _layer(site, values)
        sizes = {"d_x": weight.shape[-1], "d_h": weight.shape[0]}
        hypers = self._hypers(params, sizes, site.placed.use.args)
        _check(not TABLE[self._kind].single or site.placed.case.dtype == "float32")
        _check(not self._form.fits(hypers, sizes))
        model = self._model(hypers, sizes, weight, bias is not None)
        tensors = self._tensors(params, model, int(hypers.get("r", 1)))
        tensors[f"{_ROOT}base_layer.weight"] = weight
        if bias is not None:
            tensors[f"{_ROOT}base_layer.bias"] = bias
        own = _all(model)
        _check(all(own[name].shape == value.shape for name, value in tensors.items()))
        h: Tensor = functional_call(model, tensors, (inputs,))
        return site.composed(values, {"h": h.to(inputs.dtype)})

    def _hypers(
        self, params: Values, sizes: Mapping[str, int], given: Mapping[str, Scalar]
    ) -> dict[str, Scalar]:
        declared, method = definitions(self._form), method_of(self._form.spec)
        names = {hyper.name for hyper in method.hypers}
        missing = sorted(set(declared) - set(params))
        if missing:
            raise PeftError(
                f"{self.name} has a tensor `{missing[0]}`, and the method has none of that name",
                code="I907",
                help=f"the tensors are {', '.join(declared)}",
            )
        shaped = [(n, d.dims, tuple(params[n].shape)) for n, d in declared.items()]
        try:
            found = infer(shaped, {k: v for k, v in sizes.items() if k not in names})
        except Misfit as misfit:
            raise PeftError(
                f"{self.name}: {misfit}", code="I907", help="the shapes are those of the library"
            ) from None
        hypers: dict[str, Scalar] = {}
        for hyper in method.hypers:
            value = found.get(hyper.name, given.get(hyper.name, hyper.default))
            assert value is not None
            hypers[hyper.name] = value
        return hypers

    def _model(
        self, hypers: Mapping[str, Scalar], sizes: Mapping[str, int], weight: Tensor, bias: bool
    ) -> Any:
        peft = import_module("peft")
        correspondence: Correspondence = TABLE[self._kind]
        options: dict[str, Any] = {**correspondence.written, **self._form.when}
        for option, said in self._form.hypers.items():
            options[option] = hypers[said] if isinstance(said, str) else said(hypers, sizes)
        for other in correspondence.forms:
            if other.listed:
                options[other.listed] = [SITE] if other is self._form else []
        config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[self._kind](target_modules=[SITE], **options)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias).to(weight.dtype)
            try:
                return peft.get_peft_model(_Site(layer), config).eval()
            except ValueError as refused:
                # The library refuses these sizes, which are no fault of the method.
                raise UnfitSite(str(refused)) from None

    def _tensors(self, params: Values, model: Any, rank: int) -> dict[str, Tensor]:
        names = {_key(name): name for name in _all(model)}
        _check(all(_ROOT + stored.key in names for stored in self._form.tensors.values()))
        found = {
            names[_ROOT + stored.key]: stored.layout.theirs(params[name])
            for name, stored in self._form.tensors.items()
        }
        for name, common in self._form.common.items():
            found[names[common.key]] = common.theirs(params[name], rank)
        return found


def _check(fits: bool) -> None:
    if not fits:
        raise UnfitSite("PEFT has no such layer of these sizes")


def _layer(site: OneSite, values: Values) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the module reads, its weight and its bias; before a projection, that of the identity."""
    role = site.placed.case.role
    if "W" in values and "x" in values:
        return values["x"], values["W"], values.get("b")
    if role == "ffn.act":
        h = values["h"]
        return h, torch.eye(h.shape[-1], dtype=h.dtype, device=h.device), None
    raise PeftError(
        f"PEFT adapts linear layers, and {role} is none",
        code="I905",
        help="compare at a projection: --at attn.q",
    )


def _all(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under every name that they have."""
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


def _key(name: str) -> str:
    """The key in a file of a parameter or buffer of a PEFT model."""
    return name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector")
