"""From the tensors of a file to the tensors of our methods, module by module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.interop.common import Largest
from peftlang.interop.correspondence import Correspondence, Form, Stored
from peftlang.interop.fitting import Misfit, infer
from peftlang.interop.folder import Folder
from peftlang.interop.forms import definitions, method_of
from peftlang.interop.layouts import WrongLayout
from peftlang.interop.options import check_consumed, has_form
from peftlang.interop.prefixes import KEY, cores, split
from peftlang.interop.targets import chosen_modules, in_pattern, is_listed, is_transposed
from peftlang.interop.trained import copied_parameters, tied_names, whole_parameters
from peftlang.ir.dims import Indivisible
from peftlang.ir.expr import Scalar
from peftlang.ir.plan import Site
from peftlang.ir.sizes import all_dims
from peftlang.sites.survey import Survey

ROOT = "base_model.model."
"""What stands before every module's path in the file."""

PROMPT = "prompt"
_ROLES = {"module": ("linear", "head"), "embedding": ("embed",), "prompt": ("prompt",)}


@dataclass(frozen=True)
class Module:
    """One adapted module of the file.

    Attributes:
        place: Its path; ``prompt`` for a method that changes the input.
        form: How it is said here.
        hypers: Value of each hyper-parameter.
        tensors: Its tensors by our names, in our layout.
        site: Where it acts.
    """

    place: str
    form: Form
    hypers: dict[str, Scalar]
    tensors: dict[str, Tensor]
    site: Site


@dataclass(frozen=True)
class Reading:
    """A folder in our terms.

    Attributes:
        kind: Its `peft_type`.
        modules: In the model's order.
        trained: New values of parameters of the base, by name.
        prefix: The tensor of prefix tuning, as it is stored.
    """

    kind: str
    modules: list[Module] = field(default_factory=list)
    trained: dict[str, Tensor] = field(default_factory=dict)
    prefix: Tensor | None = None


def place_of(site: Site) -> str:
    """The place of a site, as in ``Module``."""
    return PROMPT if site.role == "prompt" else site.path


def read_modules(
    folder: Folder, correspondence: Correspondence, model: nn.Module, surveyed: Survey
) -> Reading:
    """Read every tensor of a folder.

    Raises:
        PeftError: I904, I905, I906, I907.
    """
    remaining = dict(folder.tensors)
    reading = Reading(folder.config["peft_type"], prefix=_prefix(correspondence, remaining))
    kinds = {form.place for form in correspondence.forms}
    if reading.prefix is not None:
        places = []
        reading.modules.extend(_layers(reading.prefix, correspondence, model, surveyed))
    elif "prompt" in kinds:
        places = [PROMPT]
    else:
        places = chosen_modules(folder.config, model)
        _check_kinds(places, correspondence, model)
        _check_ties(places, folder.config, model)
    sites = sites_by_place(surveyed)
    for place in places:
        if correspondence.copies:
            prefix = f"{ROOT}{place}.{correspondence.copies}."
            reading.trained.update(copied_parameters(prefix, place, remaining, model))
        else:
            reading.modules.append(_module(place, folder, correspondence, remaining, sites))
    _add_common(reading, folder, correspondence, remaining)
    reading.trained.update(whole_parameters(folder.config, correspondence, remaining, model))
    if remaining:
        raise PeftError(
            f"the file holds `{min(remaining)}`"
            + (f" and {len(remaining) - 1} more" if len(remaining) > 1 else "")
            + ", which its configuration does not explain",
            code="I906",
            help="the two files of the folder should come from one save_pretrained",
        )
    return reading


def _prefix(correspondence: Correspondence, remaining: dict[str, Tensor]) -> Tensor | None:
    if all(form.place != "core" for form in correspondence.forms):
        return None
    stored = remaining.pop(KEY, None)
    if stored is None or stored.dim() != 2:
        raise PeftError(
            f"the folder holds no matrix `{KEY}`",
            code="I906",
            help="save the adapter again with PEFT",
        )
    return stored


def _layers(
    stored: Tensor, correspondence: Correspondence, model: nn.Module, surveyed: Survey
) -> list[Module]:
    sites = cores(surveyed.sites)
    form, found = split(stored, correspondence.forms, sites, model)
    pairs = zip(sites, found, strict=True)
    return [Module(site.path, form, {"l": len(stored)}, each, site) for site, each in pairs]


def sites_by_place(surveyed: Survey) -> dict[str, Site]:
    """The site that a module's path names by itself."""
    found: dict[str, Site] = {}
    wanted = {role for roles in _ROLES.values() for role in roles}
    for site in surveyed.sites:
        if site.role in wanted and site.rows is None:
            found.setdefault(place_of(site), site)
    return found


def _check_kinds(places: list[str], correspondence: Correspondence, model: nn.Module) -> None:
    transposed = [p for p in places if is_transposed(model.get_submodule(p))]
    if transposed and not correspondence.transposed:
        raise PeftError(
            f"{transposed[0]} is a transposed linear layer; this method takes none in PEFT",
            code="I905",
            help="give the base model that the adapter was trained on",
        )


def _check_ties(places: list[str], config: Mapping[str, Any], model: nn.Module) -> None:
    if not config.get("ensure_weight_tying"):
        return
    tied = {name for names in tied_names(model).values() if len(names) > 1 for name in names}
    for place in places:
        if f"{place}.weight" in tied:
            raise PeftError(
                f"`ensure_weight_tying` adapts {place} together with the module whose weight it "
                "shares, which has no correspondence",
                code="I904",
                help="merge the adapter with PEFT and use the plain model, or train it without "
                "this option",
            )


def _module(
    place: str,
    folder: Folder,
    correspondence: Correspondence,
    remaining: dict[str, Tensor],
    sites: Mapping[str, Site],
) -> Module:
    prefix = "" if place == PROMPT else f"{ROOT}{place}."
    site = sites.get(place)
    form = _form(place, prefix, folder, correspondence, site.dims if site else {})
    check_consumed(folder.config, form, correspondence)
    if site is None or site.role not in _ROLES[form.place]:
        what = "no forward pass of this model uses it" if site is None else f"it is a {site.role}"
        raise PeftError(
            f"{place} has tensors, and {what}",
            code="I905",
            help="`peftlang sites` lists the places of a model; give the base that was trained",
        )
    tensors = {
        name: _in_our_layout(f"{prefix}{stored.key}", stored, remaining)
        for name, stored in form.tensors.items()
    }
    hypers = _hypers(place, form, correspondence, folder.config, tensors, site)
    for name, made in form.derived.items():
        tensors[name] = made(hypers, site.dims)
    return Module(place, form, hypers, tensors, site)


def _form(
    place: str,
    prefix: str,
    folder: Folder,
    correspondence: Correspondence,
    sizes: Mapping[str, int],
) -> Form:
    known = {stored.key for form in correspondence.forms for stored in form.tensors.values()}
    present = {key for key in known if f"{prefix}{key}" in folder.tensors}
    candidates = [
        form
        for form in correspondence.forms
        if has_form(folder.config, form) and _is_listed(place, form, folder.config, correspondence)
    ]
    if not candidates:
        raise _no_form(folder.config, correspondence)
    whole = [f for f in candidates if present == {stored.key for stored in f.tensors.values()}]
    if whole:
        return next((form for form in whole if _may_fit(form, prefix, folder, sizes)), whole[-1])
    missing = sorted({s.key for s in candidates[0].tensors.values()} - present)
    what = f"`{prefix}{missing[0]}` is missing" if missing else f"{place} has unknown tensors"
    raise PeftError(
        f"{what} in the folder",
        code="I906",
        help="the two files of the folder should come from one save_pretrained",
    )


def _no_form(config: Mapping[str, Any], correspondence: Correspondence) -> PeftError:
    options = sorted({option for form in correspondence.forms for option in form.when})
    given = ", ".join(f"`{option}` = {config.get(option)!r}" for option in options)
    return PeftError(
        f"the options {given} have no correspondence together",
        code="I904",
        help="merge the adapter with PEFT and use the plain model",
    )


def _is_listed(
    place: str, form: Form, config: Mapping[str, Any], correspondence: Correspondence
) -> bool:
    if form.listed:
        return is_listed(place, config.get(form.listed))
    lists = [other.listed for other in correspondence.forms if other.listed]
    return not any(is_listed(place, config.get(name)) for name in lists)


def _may_fit(form: Form, prefix: str, folder: Folder, sizes: Mapping[str, int]) -> bool:
    """Whether some hyper-parameters make the declared dimensions these shapes, and fit the site."""
    declared, names = definitions(form), {hyper.name for hyper in method_of(form.spec).hypers}
    try:
        shaped = [
            (name, declared[name].dims, tuple(s.layout.ours(folder.tensors[prefix + s.key]).shape))
            for name, s in form.tensors.items()
        ]
        found = infer(shaped, {k: v for k, v in sizes.items() if k not in names})
        for dim, _ in all_dims(method_of(form.spec)):
            if dim.symbols <= found.keys():
                dim.evaluate(found)
    except (Misfit, WrongLayout, Indivisible):
        return False
    return True


def _in_our_layout(key: str, stored: Stored, remaining: dict[str, Tensor]) -> Tensor:
    value = remaining.pop(key)
    try:
        return stored.layout.ours(value)
    except WrongLayout as wanted:
        raise PeftError(
            f"`{key}` is {list(value.shape)}, and should be {wanted}",
            code="I907",
            help="the folder is not what PEFT 0.21 writes; save the adapter again",
        ) from None


def _hypers(
    place: str,
    form: Form,
    correspondence: Correspondence,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    site: Site,
) -> dict[str, Scalar]:
    method, declared = method_of(form.spec), definitions(form)
    shaped = [(name, declared[name].dims, tuple(t.shape)) for name, t in tensors.items()]
    names = {hyper.name for hyper in method.hypers}
    try:
        sizes = infer(shaped, {k: v for k, v in site.dims.items() if k not in names})
    except Misfit as misfit:
        raise PeftError(
            f"{place}: {misfit}; there d_x = {site.dims.get('d_x')}, d_h = {site.dims.get('d_h')}",
            code="I907",
            help="give the base model that the adapter was trained on",
        ) from None
    options = {our: option for option, our in form.hypers.items() if isinstance(our, str)}
    found: dict[str, Scalar] = {}
    for hyper in method.hypers:
        option = options.get(hyper.name)
        given = in_pattern(
            config.get(correspondence.patterns.get(option or "", "")),
            place,
            config.get(option or ""),
        )
        if hyper.name in sizes:
            found[hyper.name] = sizes[hyper.name]
            _check_given(place, option, given, sizes[hyper.name], correspondence)
        elif given is not None:
            found[hyper.name] = float(given) if hyper.kind == "float" else given
        elif option is not None and option not in correspondence.neutral:
            raise PeftError(
                f"the configuration does not say `{option}`",
                code="I904",
                help="add it to adapter_config.json, as it was when the adapter was trained",
            )
        elif hyper.default is not None:
            found[hyper.name] = hyper.default
    return found


def _check_given(
    place: str, option: str | None, given: Any, size: int, correspondence: Correspondence
) -> None:
    if option in correspondence.patterns and given is not None and given != size:
        raise PeftError(
            f"{place} has tensors of size {size}, and the configuration says `{option}` = {given}",
            code="I907",
            help="the two files of the folder should come from one save_pretrained",
        )


def _add_common(
    reading: Reading, folder: Folder, correspondence: Correspondence, remaining: dict[str, Tensor]
) -> None:
    """Buffers that all modules read from one tensor; drawn again where the file has none."""
    keys = {c.key for module in reading.modules for c in module.form.common.values()}
    if not keys:
        return
    if not keys <= set(remaining):
        assert correspondence.draw is not None, "every method with common tensors draws them"
        sites = [module.site.dims for module in reading.modules]
        rank = int(reading.modules[0].hypers["r"])
        remaining.update(correspondence.draw(folder.config, largest_of(sites, rank)))
    whole = {key: remaining.pop(key) for key in keys}
    _drop_repeated(whole, remaining)
    for module in reading.modules:
        _add_corners(module, whole)


def _drop_repeated(whole: Mapping[str, Tensor], remaining: dict[str, Tensor]) -> None:
    """Some methods store the common tensors again below every module."""
    for key, value in list(remaining.items()):
        for common, own in whole.items():
            if key.endswith(common.removeprefix("base_model")) and own.equal(value):
                del remaining[key]
                break


def largest_of(sites: Sequence[Mapping[str, int]], rank: int) -> Largest:
    """The largest sizes of some sites."""
    return Largest(max(s["d_h"] for s in sites), max(s["d_x"] for s in sites), rank)


def _add_corners(module: Module, whole: Mapping[str, Tensor]) -> None:
    rank = int(module.hypers["r"])
    whole_numbers = {k: v for k, v in module.hypers.items() if isinstance(v, int)}
    sizes = {**module.site.dims, **whole_numbers}
    for name, common in module.form.common.items():
        own = tuple(dim.evaluate(sizes) for dim in definitions(module.form)[name].dims)
        shape = common.corner(own, rank)
        corner = whole[common.key][tuple(slice(0, size) for size in shape)]
        if tuple(corner.shape) != shape:
            raise PeftError(
                f"`{common.key}` is {list(whole[common.key].shape)}, and {module.place} reads "
                f"{list(shape)} of it",
                code="I907",
                help="give the base model that the adapter was trained on",
            )
        module.tensors[name] = common.ours(corner, rank)
