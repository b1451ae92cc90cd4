"""sequences: what methods ask of a model's sequences is what the model has.

Requires: a resolved plan. Ensures: texts that stand for token ids are ids, a method that chooses
tokens by id stands where tokens have ids, one that works on patches where there are patches, and
one that looks at later tokens where tokens see later ones, or its spec says so itself.
"""

from collections.abc import Iterable, Mapping, Sequence

from peftlang.diagnostics import PeftError
from peftlang.ir.builtins import BUILTINS
from peftlang.ir.expr import Apply, Expr, Number, Rewriter
from peftlang.ir.method import Adapter, Method, Use
from peftlang.ir.plan import Plan, Site
from peftlang.ir.reach import asking, chooses, mixing, reads
from peftlang.ir.types import Type
from peftlang.passes.tokens import sequence_of


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


def check_sequences(plan: Plan, sites: Sequence[Site]) -> None:
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
            if site.sees == "earlier" and sequence_of(site) == sequence_of(other):
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
    side = sequence_of(site)
    return [s for s in sites if s.role == "embed" and side in {s.side or "model", "model"}]


def _is_patches(embedding: Site) -> bool:
    return "vocab" not in embedding.dims


def _has_ids(site: Site, sites: Sequence[Site]) -> bool:
    """A decoder always reads ids, if only those that another side's embedding is tied to."""
    found = [s for s in _embeddings(site, sites) if not _is_patches(s)]
    return bool(found) or sequence_of(site) == "decoder"


def _reads_soft(method: Method) -> bool:
    return any(call.op == "soft" for call in asking(method))


def _has_prompt(site: Site, sites: Sequence[Site]) -> bool:
    sides = {sequence_of(s) for s in sites if s.role == "prompt"}
    return sequence_of(site) in sides


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
