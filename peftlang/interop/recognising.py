"""Which of HF PEFT's methods an adapter is, found from its mathematics at every site."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from peftlang.diagnostics import PeftError
from peftlang.interop.correspondence import Correspondence, Form
from peftlang.interop.forms import method_of
from peftlang.interop.matching import Match, Mismatch, match
from peftlang.interop.reading import place_of
from peftlang.interop.table import TABLE
from peftlang.interop.targets import is_linear, is_transposed
from peftlang.ir.expr import Scalar
from peftlang.ir.plan import Placement, Plan, Site
from peftlang.ir.positions import PROJECTIONS

ELSEWHERE = "export it merged (`peftlang convert --merged`), or as LoRA (`--as-lora RANK`)"


@dataclass(frozen=True)
class Placed:
    """One site of an adapter, in the other library's terms.

    Attributes:
        path: The module that the other library adapts; ``prompt`` for the input.
        form: Which form.
        hypers: Value of each hyper-parameter of the form.
        tensors: Our tensors by the form's names.
        site: Whose sizes these are.
    """

    path: str
    form: Form
    hypers: dict[str, Scalar]
    tensors: dict[str, Tensor]
    site: Site


Readers = Callable[[], dict[str, Site]]
"""Which projection reads each ``ffn.act``; found by looking at the model, so only on demand."""


def recognise(
    plan: Plan, model: nn.Module, tensor: Callable[[str], Tensor], readers: Readers
) -> tuple[str, list[Placed]]:
    """The `peft_type` of an adapter, and each of its sites.

    Args:
        plan: A plan with at least one placement.
        model: The base.
        tensor: The adapter's tensors by group name.
        readers: See ``Readers``.

    Raises:
        PeftError: I908, some site computes what no method of the table does; I909, each site has a
            method there, and not together.
    """
    kinds = list(TABLE)
    found: dict[str, list[list[Candidate]]] = {kind: [] for kind in kinds}
    for placement in plan.placements:
        for site_id in placement.sites:
            site = plan.sites[site_id]
            here, reasons = {}, list[tuple[str, Mismatch]]()
            for kind in TABLE:
                try:
                    here[kind] = _placed(TABLE[kind], plan, placement, site, model, tensor, readers)
                except Mismatch as reason:
                    reasons.append((kind, reason))
            if not here:
                raise _unknown(placement, site, reasons)
            kinds = [kind for kind in kinds if kind in here]
            if not kinds:
                raise _mixed(plan)
            for kind in kinds:
                found[kind].append(here[kind])
    placed = _together(found[kinds[0]])
    _check_once(placed)
    return kinds[0], placed


Candidate = tuple[int, Placed]
"""A form that a site may have, and the effort of its match."""


def _together(sites: Sequence[Sequence[Candidate]]) -> list[Placed]:
    """One form for each site, all with the same options, with the least effort."""
    options = [placed.form.when for candidates in sites for _, placed in candidates]
    best: tuple[float, list[Placed]] | None = None
    for when in {tuple(sorted(each.items())): each for each in options}.values():
        chosen = [_least([c for c in each if _agree(c[1].form.when, when)]) for each in sites]
        whole = [one for one in chosen if one is not None]
        effort = sum(each for each, _ in whole)
        if len(whole) == len(sites) and (best is None or effort < best[0]):
            best = effort, [placed for _, placed in whole]
    if best is not None:
        return best[1]
    alone = [_least(candidates) for candidates in sites]
    return [one[1] for one in alone if one is not None]


def _least(candidates: Sequence[Candidate]) -> Candidate | None:
    return min(candidates, key=lambda each: each[0], default=None)


def _agree(left: Mapping[str, object], right: Mapping[str, object]) -> bool:
    return all(left[option] == right[option] for option in left.keys() & right.keys())


def _placed(
    correspondence: Correspondence,
    plan: Plan,
    placement: Placement,
    site: Site,
    model: nn.Module,
    tensor: Callable[[str], Tensor],
    readers: Readers,
) -> list[Candidate]:
    use, found = plan.uses[placement.label], list[Candidate]()
    nearest = Mismatch("is no method of this kind", depth=0)
    for form, spec in _patterns(correspondence, site):
        try:
            here = match(method_of(spec), use, site)
            host = readers().get(site.id) if site.role == "ffn.act" else site
            _check_host(host, form, correspondence, model)
            assert host is not None
            groups = placement.tensors[site.id]
            tensors = {name: tensor(groups[own]) for name, own in here.tensors.items()}
            placed = Placed(place_of(host), form, here.hypers, tensors, host)
            found.append((here.effort, _checked(placed, here)))
        except Mismatch as mismatch:
            nearest = max(nearest, mismatch, key=lambda each: each.depth)
    if not found:
        raise nearest
    return found


def _patterns(correspondence: Correspondence, site: Site) -> Iterator[tuple[Form, str]]:
    """Each form that can act at such a site, with each text of it."""
    kinds = {"embed": "embedding", "prompt": "prompt", "attn.core": "core"}
    for form in correspondence.forms:
        if site.role == "ffn.act":
            if form.before:
                yield form, form.before
        elif form.place == kinds.get(site.role, "module"):
            yield form, form.spec
            yield from ((form, text) for text in form.also)


def _check_host(
    host: Site | None, form: Form, correspondence: Correspondence, model: nn.Module
) -> None:
    if host is None:
        raise Mismatch("acts where no single projection reads the value", depth=3)
    if host.rows is not None:
        raise Mismatch(f"acts on some rows of {host.path}, and PEFT adapts whole modules", depth=3)
    if host.role == "prompt" and host.layer is not None:
        raise Mismatch("comes in at a layer, and PEFT's prompts at the model's input", depth=3)
    if form.place != "module":
        return
    module = model.get_submodule(host.path)
    if host.role not in PROJECTIONS or not is_linear(module):
        raise Mismatch(f"acts on a {type(module).__name__} ({host.role})", depth=3)
    if is_transposed(module) and not correspondence.transposed:
        raise Mismatch(
            "acts on a transposed linear layer, which that method does not take there", depth=3
        )


def _checked(placed: Placed, found: Match) -> Placed:
    why = placed.form.fits(found.hypers, placed.site.dims)
    if why:
        raise Mismatch(why, depth=3)
    for name, made in placed.form.derived.items():
        wanted, own = made(found.hypers, placed.site.dims), placed.tensors[name].cpu()
        if not wanted.equal(own.to(wanted.dtype)):
            raise Mismatch(f"has a `{found.tensors[name]}` that no seed of PEFT's gives", depth=3)
    return placed


def _unknown(placement: Placement, site: Site, reasons: list[tuple[str, Mismatch]]) -> PeftError:
    kind, nearest = max(reasons, key=lambda each: each[1].depth)
    detail = f": it is {kind} but that it {nearest}" if nearest.depth > 1 else ""
    return PeftError(
        f"`{placement.method}` at {site.id} is no method of PEFT{detail}",
        code="I908",
        help=ELSEWHERE,
    )


def _mixed(plan: Plan) -> PeftError:
    names = ", ".join(f"`{placement.label}`" for placement in plan.placements)
    return PeftError(
        f"a PEFT adapter is of one method, and this one uses {names}",
        code="I909",
        help=f"{ELSEWHERE}; or save each as an adapter of its own",
    )


def _check_once(placed: list[Placed]) -> None:
    seen: set[str] = set()
    for one in placed:
        if one.path in seen:
            raise PeftError(
                f"{one.path} is adapted twice, and a PEFT adapter changes a module once",
                code="I909",
                help=ELSEWHERE,
            )
        seen.add(one.path)
