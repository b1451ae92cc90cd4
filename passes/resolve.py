"""resolve: selectors become sites.

Requires: the model's sites. Ensures: every use of the adapter has at least one site, every name
that its expressions read exists there, and every dimension is a whole number at each site.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from peftlang.diagnostics import PeftError, nearest
from peftlang.ir.dims import Dim, Indivisible, UnboundDim
from peftlang.ir.expr import Apply, names, postorder
from peftlang.ir.method import Adapter, Method, TapDef, Use
from peftlang.ir.places import GLOB_ROLES, in_scope, matches
from peftlang.ir.plan import Placement, Plan, Site, Tapped
from peftlang.ir.selector import Selector, Target
from peftlang.ir.sizes import counts_too_many, out_of_range, site_sizes
from peftlang.passes.missing import looked_for, paths_instead
from peftlang.passes.prompts import parts_before
from peftlang.passes.taps import tapped


def resolve(
    adapter: Adapter,
    sites: Sequence[Site],
    parameters: Mapping[str, tuple[int, ...]] | None = None,
    why_missing: Callable[[str], str] = lambda _role: "",
) -> Plan:
    """Place every use of ``adapter`` on the model's sites.

    Args:
        adapter: Uses with their arguments fixed.
        sites: Every site of the model, in model order.
        parameters: Shapes of the model's parameters by qualified name, for ``train``.
        why_missing: Says what was looked for when a role has no site at all.

    Raises:
        PeftError: S402, a selector matches nothing; S403, a name is not there at a site;
            S404, S405, no such layer or side; S407, no such role; S408, a size or number does not
            fit; S426, more entries are wanted than there are.
    """
    placements, used, read = [], {}, {}
    for use in adapter.uses:
        chosen = select(use.selector, sites, why_missing)
        found: dict[str, dict[str, Tapped]] = {}
        for site in chosen:
            taps = tapped(use, site, lambda tap: _tappable(tap, sites))
            found[site.id] = {name: entry for name, (entry, _) in taps.items()}
            read.update({other.id: other for _, other in taps.values()})
            _check(use, site, found[site.id])
            used[site.id] = site
        placements.append(
            Placement(
                label=use.label,
                method=use.method.name,
                args=use.args,
                selector=str(use.selector),
                sites=tuple(site.id for site in chosen),
                taps=found if use.method.taps else {},
            )
        )
    return Plan(
        adapter=adapter.name,
        sites=used,
        placements=tuple(placements),
        train=_unfrozen(adapter, sites, parameters or {}),
        tapped=read,
        spec=adapter,
    )


def _tappable(tap: TapDef, sites: Sequence[Site]) -> list[Site]:
    """What a tap's target means; an expert's own tokens show only when the model runs."""
    found = [site for site in sites if matches(tap.target, site) and "expert" not in site.dims]
    return _one_per_place(_by_kind(found))


def select(
    selector: Selector,
    sites: Sequence[Site],
    why_missing: Callable[[str], str] = lambda _role: "",
) -> list[Site]:
    """The sites that a selector means, each once, in model order.

    Of several roles some may be absent (`attn.k, cross_attn.k` on a decoder alone); a path that
    matches nothing is an error by itself.

    Raises:
        PeftError: S402, S404, S405 or S407, nothing matches.
    """
    excluded = {s.id for t in selector.exceptions for s in sites if matches(t, s)}
    excluded_weights = {_weight(s) for s in sites if s.id in excluded and s.weight}
    kept: set[str] = set()
    absent = []
    for target in selector.targets:
        found = _by_kind([site for site in sites if matches(target, site)])
        if not found:
            absent.append(target)
        kept |= {s.id for s in _one_per_place(found) if _weight(s) not in excluded_weights}
    globs = [target for target in absent if target.kind == "glob"]
    if globs or len(absent) == len(selector.targets):
        raise _nothing((globs or absent)[0], sites, why_missing)
    chosen = [site for site in sites if site.id in kept - excluded]
    if not chosen:
        raise PeftError(
            f"`{selector}` selects nothing: `except` takes away all that it names",
            code="S402",
            help="narrow the exception",
        )
    return chosen


def _weight(site: Site) -> tuple[str | None, int | None]:
    """A site's weight, and which expert's it is in a parameter that holds several."""
    return site.weight, site.dims.get("expert")


def _by_kind(found: list[Site]) -> list[Site]:
    """Containers only where a path names nothing else: `"layers.*"` is not all that they hold."""
    return [site for site in found if site.role != "module"] or found


def _one_per_place(sites: list[Site]) -> list[Site]:
    """A glob finds a module under each of its roles; the first says what kind it is."""
    seen: dict[tuple[str, str | None], Site] = {}
    for site in sites:
        key = (site.path, site.role if site.role not in GLOB_ROLES else None)
        seen.setdefault(key if site.role in GLOB_ROLES else (site.id, None), site)
    return list(seen.values())


def _nothing(target: Target, sites: Sequence[Site], why_missing: Callable[[str], str]) -> PeftError:
    if target.kind == "glob":
        paths = sorted({s.path for s in sites if s.path})
        close = ", ".join(nearest(target.text, paths, count=3) or paths[:4])
        return PeftError(
            f'no module path matches "{target.text}"',
            code="S402",
            help=f"paths of this model: {close}, …",
        )
    if not any(s.role == target.text for s in sites):
        why = why_missing(target.text) or f"Looked for: {looked_for(target.text)}"
        named = ", ".join(f'"{path}"' for path in paths_instead(sites))
        positions = ", ".join(sorted({s.role for s in sites} - {"module"}))
        return PeftError(
            f"this model has no `{target.text}`. {why}",
            code="S407",
            help=f"its positions are {positions}; or name modules by path: {named}",
        )
    of_role = [s for s in sites if s.role == target.text]
    sides = sorted({s.side for s in of_role if s.side})
    if target.sides and not any(s.side in target.sides for s in of_role):
        return PeftError(
            f"`{target}` matches nothing: no `{target.text}` lies in {' or '.join(target.sides)}",
            code="S405",
            help=f"this model has {', '.join(sides) or 'one stack without a name'}",
        )
    depth = max(s.dims.get("layers", 0) for s in of_role)
    why = why_missing(str(target)) if target.text == "prompt" and target.layers else ""
    if why:
        return PeftError(f"`{target}` matches nothing: {why}", code="S404", help=_where(of_role))
    return PeftError(
        f"`{target}` matches nothing: no `{target.text}` is in that scope",
        code="S404" if target.layers else "S402",
        help=f"layers are 0..{depth - 1}; `peftlang sites` lists all",
    )


def _where(prompts: Sequence[Site]) -> str:
    layers = sorted({site.layer for site in prompts if site.layer is not None})
    inside = f", `prompt in layers[0..{layers[-1]}]`" if layers else ""
    return f"soft tokens can come in at `prompt`, the model's input{inside}"


def _check(use: Use, site: Site, taps: Mapping[str, Tapped]) -> None:
    _check_names(use.method, site)
    if site.role == "prompt":
        parts_before(use.method)
    lengths = {str(t.dims[0]): 1 for t in use.method.taps if t.sequence}
    named = {name: size for tap in taps.values() for name, size in tap.sizes.items()}
    sizes = site_sizes(use.method, use.args, site, named)
    for dim, what in all_dims(use.method):
        try:
            size = dim.evaluate({"keys": 1, "tokens": 1, "batch": 1, **lengths, **sizes})
        except Indivisible as fact:
            raise PeftError(
                f"`{use.method.name}` does not fit {site.id}: {fact}",
                code="S408",
                help=f"choose sizes so that `{fact.denominator}` divides `{fact.numerator}`",
            ) from None
        except UnboundDim as missing:
            raise PeftError(
                f"`{use.method.name}` uses `{missing.args[0]}`, which {site.role} at "
                f"{site.path or 'the root'} does not have",
                code="S403",
                help="sizes there: " + ", ".join(f"{k} = {v}" for k, v in site.dims.items()),
            ) from None
        if size < 1:
            raise PeftError(
                f"{what} of `{use.method.name}` has size {size} at {site.path}",
                code="S408",
                help="every dimension is at least 1",
            )
    _check_counts(use, site, sizes)


def _check_counts(use: Use, site: Site, sizes: Mapping[str, int]) -> None:
    what = f"`{use.method.name}` does not fit {site.id}"
    for fact in counts_too_many(use.method, sizes):
        raise PeftError(f"{what}: {fact}", code="S426", help="choose fewer")
    for fact in out_of_range(use.method, sizes):
        advice = "choose other arguments, or leave such sites out with `except`"
        raise PeftError(f"{what}: {fact}", code="S408", help=advice)


def _check_names(method: Method, site: Site) -> None:
    own = {tensor.name for tensor in method.tensors} | {entry.name for entry in method.inputs}
    starts = (tensor.init.expression for tensor in method.tensors)
    values = [c.value for c in method.compositions] + list(method.penalties)
    values += [start for start in starts if start]
    read = set(method.targets) | (names(*values) - own)
    if "W" in read and site.weight is None:
        raise _absent("W", method, site, "no weight of its own")
    if "b" in read and site.bias is None:
        raise _absent("b", method, site, "no bias")


def _absent(name: str, method: Method, site: Site, why: str) -> PeftError:
    return PeftError(
        f"`{method.name}` uses `{name}`, and {site.path or 'the model'} ({site.role}) has {why}",
        code="S403",
        help="place it elsewhere, or leave such sites out with `except`",
    )


def all_dims(method: Method) -> Iterable[tuple[Dim, str]]:
    """Every dimension of a method's tensors and expressions, and what has it."""
    for tensor in method.tensors:
        for dim in tensor.dims:
            yield dim, f"dimension `{dim}` of `{tensor.name}`"
    roots = [c.value for c in method.compositions]
    roots += [t.init.expression for t in method.tensors if t.init.expression is not None]
    for node in postorder(*roots):
        if isinstance(node, Apply):
            for dim in node.type.dims:
                yield dim, f"dimension `{dim}` of `{node.op}`"


def _unfrozen(
    adapter: Adapter, sites: Sequence[Site], parameters: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for selector in adapter.train:
        named = {t: _parameters(t, sites, parameters) for t in selector.targets}
        wrong = [t for t, names in named.items() if not names and t.kind == "glob"]
        if wrong or not any(named.values()):
            target = (wrong or list(named))[0]
            raise PeftError(
                f"`train {target}` matches no parameter of this model",
                code="S402",
                help='name a role and `.weight` or `.bias`, or a path: train "*.bias"',
            )
        taken = set().union(*named.values())
        for target in selector.exceptions:
            taken -= _parameters(target, sites, parameters)
        found.update((name, shape) for name, shape in parameters.items() if name in taken)
    return found


def _liesin_scope(parameter: str, target: Target, sites: Sequence[Site]) -> bool:
    """Whether a site that the scopes leave owns the parameter, or is a layer that holds it."""
    if not (target.layers or target.sides or target.where):
        return True
    return any(
        site.role != "prompt"
        and in_scope(target, site)
        and (
            parameter in (site.weight, site.bias)
            or (site.role == "block" and not target.where
                and parameter.startswith(f"{site.path}."))
        )
        for site in sites
    )  # fmt: skip


def _parameters(target: Target, sites: Sequence[Site], parameters: Iterable[str]) -> set[str]:
    if target.kind == "glob":
        pattern = target.text
        return {p for p in parameters if fnmatchcase(p, pattern) or fnmatchcase(p, f"{pattern}.*")}
    role, _, which = target.text.rpartition(".")
    if which not in {"weight", "bias"}:
        role, which = target.text, ""
    if role in {"", "all"} or target.text in {"bias", "weight"}:
        suffix = f".{which or target.text}" if target.text != "all" else ""
        return {p for p in parameters if p.endswith(suffix) and _liesin_scope(p, target, sites)}
    narrowed = target.model_copy(update={"kind": "role", "text": role})
    found: set[str] = set()
    for site in sites:
        if matches(narrowed, site):
            found |= {p for p in (site.weight, site.bias) if p and p.endswith(which)}
    return found
