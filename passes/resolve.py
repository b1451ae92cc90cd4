"""resolve: selectors become sites.

Requires: the model's sites. Ensures: every use of the adapter has at least one site, every name
that its expressions read exists there, and every dimension is a whole number at each site; texts
that stand for token ids are ids; what soft tokens need besides is in the plan.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Indivisible, UnboundDim
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Rewriter, names, postorder
from peftlang.ir.method import Adapter, Method, Use
from peftlang.ir.places import in_scope, matches
from peftlang.ir.plan import Placement, Plan, Site, Tapped
from peftlang.ir.reach import asking, asks
from peftlang.ir.selector import Target
from peftlang.ir.sizes import all_dims, counts_too_many, out_of_range, site_sizes
from peftlang.ir.soft_tokens import parts_before
from peftlang.ir.types import Type
from peftlang.prompts.layers import with_beside
from peftlang.sites.planning import Planning
from peftlang.sites.select import select, tappable
from peftlang.sites.taps import tapped


def resolve(work: Planning) -> None:
    """Place every use of an adapter on the model's sites.

    Raises:
        PeftError: as ``resolved``; S412, the model names no token that a text stands for.
    """
    survey = work.survey
    sites = [*survey.sites, *survey.containers]
    adapter = named_ids(work.adapter, work.special_ids)
    made = resolved(adapter, sites, work.shapes, survey.why_missing)
    work.plan = with_beside(made, sites, survey.tables)


def resolved(
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
        fit, by_layer = set[str](), _counts_layers(use.method)
        for site in chosen:
            taps = tapped(use, site, lambda tap: tappable(tap, sites))
            found[site.id] = {name: entry for name, (entry, _) in taps.items()}
            read.update({other.id: other for _, other in taps.values()})
            kind = _kind(use, site, found[site.id], by_layer)
            if kind not in fit:
                _check(use, site, found[site.id])
                fit.add(kind)
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


def _counts_layers(method: Method) -> bool:
    starts = [
        value
        for tensor in method.tensors
        for value in (
            tensor.init.expression,
            *(v for _, v in tensor.init.keywords),
            *tensor.init.args,
        )
        if value is not None
    ]
    symbols = (node.dim.symbols for node in postorder(*starts) if isinstance(node, DimValue))
    return asks(method, "layer") or any("layer" in found for found in symbols)


def _kind(use: Use, site: Site, taps: Mapping[str, Tapped], by_layer: bool) -> str:
    """What decides whether a use fits a site; which layer it is in matters to few."""
    named = {name: size for tap in taps.values() for name, size in tap.sizes.items()}
    sizes = site_sizes(use.method, use.args, site, named)
    if not by_layer:
        sizes.pop("layer", None)
    return f"{site.role} {site.weight is None} {site.bias is None} {sorted(sizes.items())}"


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
            or (site.role == "block" and not target.where and parameter.startswith(f"{site.path}."))
        )
        for site in sites
    )


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


# Texts that stand for ids


def named_ids(adapter: Adapter, ids: Mapping[str, tuple[int, ...]]) -> Adapter:
    """``adapter`` with ids in place of the texts that stand for them.

    Args:
        adapter: Any adapter.
        ids: What the model calls its special tokens: ``{"cls": (101,), "special": (101, 102)}``.

    Raises:
        PeftError: S412, the model names no such token.
    """
    uses = tuple(_with_ids(use, ids) for use in adapter.uses)
    return adapter.model_copy(update={"uses": uses})


def _with_ids(use: Use, ids: Mapping[str, tuple[int, ...]]) -> Use:
    if not asking(use.method, what=("ids",)):
        return use

    def rule(node: Expr) -> Expr:
        if not isinstance(node, Apply) or node.is_hyper or not BUILTINS[node.op].texts:
            return node
        args = [found for arg in node.args for found in _ids(arg, ids, use.method)]
        return Apply(node.op, tuple(args), node.type, node.keywords, node.over, span=node.span)

    rewrite = Rewriter(rule)
    changed = tuple(
        c.model_copy(update={"value": rewrite(c.value)}) for c in use.method.compositions
    )
    return use.model_copy(
        update={"method": use.method.model_copy(update={"compositions": changed})}
    )


def _ids(arg: Expr, ids: Mapping[str, tuple[int, ...]], method: Method) -> list[Expr]:
    if not isinstance(arg, Number) or not isinstance(arg.value, str):
        return [arg]
    found = ids.get(arg.value, ())
    if not found:
        has = ", ".join(f'"{name}"' for name in sorted(ids) if ids[name])
        raise PeftError(
            f'`{method.name}` chooses tokens that the model calls "{arg.value}", and its '
            "configuration names none",
            code="S412",
            help=f"it names {has}" if has else "write the id itself, from the tokeniser",
        )
    return [Number(value, Type(kind="int"), arg.span) for value in found]
