"""Methods that read positions which soft tokens fill only later, in a layer behind them."""

from collections.abc import Iterator, Sequence

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.plan import ActivePlan, Placement, Plan, Site
from peftlang.ir.reach import mixing
from peftlang.ir.soft_tokens import entries, reserved_at


def check_reserved(active: Sequence[ActivePlan]) -> None:
    """Refuse methods that would read positions before soft tokens fill them.

    Raises:
        PeftError: S419.
    """
    if all(entry.site.layer is None or not entry.has_ids for entry in entries(active)):
        return
    for adapter in active:
        for placement in adapter.plan.placements:
            for site, why in _reading_reserved(adapter.plan, placement, active):
                raise PeftError(
                    f"`{placement.method}` at {site.id} {why}, where soft tokens that come in at a "
                    "later layer are not yet",
                    code="S419",
                    help="place the method in layers on one side of the one where they come in, or "
                    "let them come in at the input: `at prompt`",
                )


def _reading_reserved(
    plan: Plan, placement: Placement, active: Sequence[ActivePlan]
) -> Iterator[tuple[Site, str]]:
    method = plan.uses[placement.label].method
    sites = [plan.sites[name] for name in placement.sites]
    alone = {tap.name for tap in method.taps if not tap.sequence}
    for site in sites:
        room = reserved_at(active, site)
        for name, tap in placement.taps.get(site.id, {}).items():
            other = plan.concerned[tap.site]
            same = other.sequence == site.sequence
            if name in alone and same and reserved_at(active, other) != room:
                yield site, f"reads {other.id} token by token"
        chain = [s for s in sites if s.stack == site.stack] if method.carries else []
        if any(reserved_at(active, other) != room for other in chain):
            yield site, "carries a state through all its layers, from the first"
        if room and any(
            _over_keys(node) for c in method.compositions for node in postorder(c.value)
        ):
            yield site, "reads all keys"
        if room and site.layer is None and mixing(method):
            yield site, "reads all tokens"


def _over_keys(node: object) -> bool:
    return isinstance(node, Apply) and Dim.of("keys") in node.over
