"""Which sites of a model a selector means."""

from collections.abc import Callable, Sequence

from peftlang.diagnostics import PeftError, nearest
from peftlang.ir.method import TapDef
from peftlang.ir.places import GLOB_ROLES, matches
from peftlang.ir.plan import Site
from peftlang.ir.selector import Selector, Target
from peftlang.sites.missing import looked_for, paths_instead


def tappable(tap: TapDef, sites: Sequence[Site]) -> list[Site]:
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
