"""annotate: find the plan's sites in the graphs at hand.

Requires: sites that ``roles`` found in a whole forward. Ensures: ``located`` has one entry per
graph; a site whose weights run where its computation cannot be found is an error.
"""

from peftlang.diagnostics import PeftError
from peftlang.passes.admit import admit, check_admitted
from peftlang.passes.locate import locate
from peftlang.passes.occurrence import Missing
from peftlang.passes.rewriting import Rewriting
from peftlang.passes.rooms import rooms


def annotate(work: Rewriting) -> None:
    """Locate every site of the active adapters in every graph.

    Raises:
        PeftError: R502, a site runs in a graph and cannot be found there; S419, one method reads
            what another has not yet put there.
    """
    sites = {k: s for active in work.active for k, s in active.plan.concerned.items()}
    in_graphs = [site for site in sites.values() if site.role != "prompt"]
    work.located = [locate(graph, in_graphs) for graph in work.graphs]
    prompts = [site for site in sites.values() if site.role == "prompt"]
    check_admitted(work.active)
    admit(work)
    for graph, located in zip(work.graphs, work.located, strict=True):
        rooms(graph, prompts, located)
    lost = [missing for located in work.located for missing in located.missing]
    if lost:
        raise _not_found(lost)


def _not_found(lost: list[Missing]) -> PeftError:
    first = lost[0]
    others = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    return PeftError(
        f"the weights of {first.site.id} run in this graph, but the site was not found there"
        f"{others}: {first.reason}",
        code="R502",
        help="a graph break inside the layer splits a site in two: TORCH_LOGS=graph_breaks shows "
        "where; or place the method on projections, which are found by their weights alone",
    )
