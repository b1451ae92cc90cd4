"""check: what methods ask of a model is what the model has.

Requires: a resolved plan. Ensures: a method that chooses tokens by id stands where tokens have ids,
one that works on patches where there are patches, one that looks at later tokens where tokens see
later ones, or its spec says so itself; what is done at single experts is a change of their weights;
nothing reads positions that soft tokens fill only later.
"""

from collections.abc import Iterable, Sequence

from torch import nn

from peftlang.capture.storage import cannot_unpack, is_readable
from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Number, names, postorder
from peftlang.ir.linearity import Degree, dependence
from peftlang.ir.method import Init, Method, fixed
from peftlang.ir.plan import ActivePlan, Plan, Site
from peftlang.ir.reach import asking, chooses, mixing, reads
from peftlang.ir.starting import ZERO, starts_as
from peftlang.prompts.reserved import check_reserved
from peftlang.sites.planning import Planning


def check(work: Planning) -> None:
    """Refuse what the model cannot give.

    Raises:
        PeftError: S409, sites that want an input of different sizes; S412, tokens without ids;
            S413, no patches; S414, a look at later tokens; S415, a sequence without soft tokens;
            S418, no change of an expert's weights; S419, positions that soft tokens fill later;
            R531, a weight that nothing unpacks.
    """
    _check_sequences(work.plan, [*work.survey.sites, *work.survey.containers])
    _check_experts(work.plan)
    _check_inputs(work.plan)
    _check_packed(work.plan, work.root)
    check_reserved([ActivePlan(name="", plan=work.plan)])


# Inputs


def _check_inputs(plan: Plan) -> None:
    """A call gives one value of an input, for all sites."""
    for placement in plan.placements:
        for entry in plan.uses[placement.label].method.inputs:
            names = set().union(*(dim.symbols for dim in (*entry.dims, entry.limit or Dim.of(1))))
            sizes: dict[tuple[tuple[str, int], ...], str] = {}
            for site in (plan.sites[site_id] for site_id in placement.sites):
                own = tuple((name, site.dims[name]) for name in sorted(names & site.dims.keys()))
                sizes.setdefault(own, site.id)
            if len(sizes) > 1:
                each = "; ".join(
                    f"{', '.join(f'`{name}` is {size}' for name, size in own)} at {site}"
                    for own, site in sizes.items()
                )
                raise PeftError(
                    f"the input `{entry.name}` of `{placement.method}` is one for all sites, and "
                    f"has not one size: {each}",
                    code="S409",
                    help="narrow the position to sites of one size, or use two methods, each with "
                    "an input of its own",
                )


# Weights


def _check_packed(plan: Plan, root: nn.Module) -> None:
    """Refuse what needs the numbers of a weight that cannot be had.

    Raises:
        PeftError: R531.
    """
    for placement in plan.placements:
        method = plan.uses[placement.label].method
        starts = [t.init.expression for t in method.tensors if t.init.expression is not None]
        values = [*(c.value for c in method.compositions), *method.penalties, *starts]
        if "W" not in {*method.targets, *names(*values)}:
            continue
        for site in (plan.sites[name] for name in placement.sites):
            owner, _, leaf = (site.weight or "").rpartition(".")
            if site.weight and not is_readable(root.get_submodule(owner), leaf):
                raise cannot_unpack(owner, root.get_submodule(owner), placement.method)


# Sequences


def _check_sequences(plan: Plan, sites: Sequence[Site]) -> None:
    """Refuse what a model's sequences cannot give.

    Raises:
        PeftError: S412, tokens without ids; S413, no patches; S414, a look at later tokens; S415, a
            sequence without soft tokens.
    """
    for placement in plan.placements:
        method = plan.uses[placement.label].method
        for site in (plan.sites[site_id] for site_id in placement.sites):
            if asking(method, what=("ids",)) and not _has_ids(site, sites):
                raise _no_ids(method, site)
            if _reads_soft(method) and not _has_prompt(site, sites):
                raise _no_prompt(method, site)
            for call in mixing(method):
                _check_call(call, method, site, sites)
        for site, other in plan.tapped_sequences(placement):
            if site.sees == "earlier" and site.sequence == other.sequence:
                raise _tapped_ahead(placement.method, site, other)


def _tapped_ahead(method: str, site: Site, other: Site) -> PeftError:
    return PeftError(
        f"a tap of `{method}` is the whole sequence at {other.id}, later tokens with it, which no "
        f"token at {site.id} sees",
        code="S414",
        help="leave the length out of the tap: then it is the token's own value; or tap another "
        "sequence",
    )


def _check_call(call: Apply, method: Method, site: Site, sites: Sequence[Site]) -> None:
    if call.op == "conv2" and not any(map(_is_patches, _embeddings(site, sites))):
        raise PeftError(
            f"`{call.op}` of `{method.name}` works on an image's patches, and the tokens at "
            f"{site.id} are none",
            code="S413",
            help="`conv` works along any sequence",
        )
    if site.sees == "earlier" and reads(call) == "all" and not chooses(call):
        raise PeftError(
            f"`{call.op}` of `{method.name}` looks at later tokens, which no token at {site.id} "
            "sees",
            code="S414",
            help=f"place it in an encoder, or say that it may: `{call.op}(…, causal = false)`",
        )


def _embeddings(site: Site, sites: Sequence[Site]) -> Iterable[Site]:
    """What makes the site's sequence out of the model's input."""
    side = site.sequence
    return [s for s in sites if s.role == "embed" and side in {s.side or "model", "model"}]


def _is_patches(embedding: Site) -> bool:
    return "vocab" not in embedding.dims


def _has_ids(site: Site, sites: Sequence[Site]) -> bool:
    """A decoder always reads ids, if only those that another side's embedding is tied to."""
    found = [s for s in _embeddings(site, sites) if not _is_patches(s)]
    return bool(found) or site.sequence == "decoder"


def _reads_soft(method: Method) -> bool:
    return any(call.op == "soft" for call in asking(method))


def _has_prompt(site: Site, sites: Sequence[Site]) -> bool:
    sides = {s.sequence for s in sites if s.role == "prompt"}
    return site.sequence in sides


def _no_prompt(method: Method, site: Site) -> PeftError:
    return PeftError(
        f"`{method.name}` is for soft tokens, and none can be put before the sequence at {site.id}",
        code="S415",
        help="in an encoder-decoder they go before the encoder's sequence: narrow the position by "
        "`in encoder`",
    )


def _no_ids(method: Method, site: Site) -> PeftError:
    return PeftError(
        f"`{method.name}` chooses tokens by their ids, and the tokens at {site.id} have none",
        code="S412",
        help="place it where the sequence is one of token ids; `tokens(first, last)` chooses by "
        "place",
    )


# Single experts of a mixture


def _check_experts(plan: Plan) -> None:
    """Refuse methods at experts that are no change of their weights.

    Raises:
        PeftError: S418.
    """
    for placement in plan.placements:
        use = plan.uses[placement.label]
        experts = [name for name in placement.sites if plan.sites[name].is_expert]
        reason = _why_not(fixed(use.method, use.args)) if experts else ""
        if reason:
            raise PeftError(
                f"`{use.method.name}` is no change of the weights of {experts[0]}: {reason}",
                code="S418",
                help="which tokens an expert has shows only when the model runs; `ffn` is the "
                "whole block, with all of its tokens",
            )


def _why_not(method: Method) -> str:
    """What keeps a method from being a linear map of an expert's input, or ""."""
    if method.carries or method.taps or method.inputs:
        return "it reads what other sites have, or the call supplies"
    zeros = {name: Init(name="zeros") for name in ("x", "h")}
    for composition in method.compositions:
        value = composition.value
        drawn = [n.op for n in postorder(value) if isinstance(n, Apply) and _is_random(n)]
        if drawn:
            return f"`{drawn[0]}` draws anew for each token"
        found = dependence(value, {"x", "h"})
        if found.degree is Degree.OTHER:
            return found.reason
        if composition.target in {"x", "h"} and starts_as(value, zeros) != ZERO:
            return "it adds a constant, and experts have no bias to hold it"
    if any({"x", "h"} & names(penalty) for penalty in method.penalties):
        return "its penalty reads the expert's tokens"
    return ""


def _is_random(node: Apply) -> bool:
    """Whether a function draws in training; `dropout(x, 0)` and `jitter(x, 0)` do not."""
    if node.is_hyper or not BUILTINS[node.op].random:
        return False
    amount = node.args[1] if len(node.args) > 1 else None
    return not (isinstance(amount, Number) and amount.value == 0)
