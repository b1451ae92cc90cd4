"""Whether what taps read is there in time."""

from collections.abc import Iterator

import networkx as nx
from torch.fx import Node

from peftlang.dataflow.reading import Reading
from peftlang.diagnostics import PeftError
from peftlang.ir.plan import Plan
from peftlang.sites.survey import Survey


def read_ahead(plan: Plan, survey: Survey) -> str:
    """The id of a site that a tap reads before the model gets there; "" for none.

    Raises:
        PeftError: S417, what it reads is computed from what reads it: taps and the model's own
            operations go round in a circle.
    """
    reading = Reading.of(survey.graph)
    order = reading.flow.order
    pairs = list(_taps(plan, survey))
    late = [(site, made, used) for site, made, used in pairs if order[made] > order[used]]
    if not late:
        return ""
    graph = nx.DiGraph()
    nodes = {node for _, made, used in pairs for node in (made, used)}
    for node in nodes:
        graph.add_edges_from((a, node) for a in reading.flow.ancestors([node]) if a in nodes)
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    graph.add_edges_from((made, used) for _, made, used in pairs if made is not used)
    if not nx.is_directed_acyclic_graph(graph):
        raise PeftError(
            f"a tap reads a value before it is there: {late[0][0]} is computed from what reads it",
            code="S417",
            help="a tap can read what runs before the site: an earlier layer (`in "
            "layers[layer - 1]`), an earlier part of the layer, or a tower that does not read it",
        )
    return late[0][0]


def _taps(plan: Plan, survey: Survey) -> Iterator[tuple[str, Node, Node]]:
    """What each tap reads, by site; the node that holds it, and the one that is made of it."""
    found = survey.located(s for s in plan.concerned.values() if s.role != "prompt").found
    for placement in plan.placements:
        method = plan.uses[placement.label].method
        for reader, taps in placement.taps.items():
            for tap in taps.values():
                if reader in found and tap.site in found:
                    own = found[reader][0]
                    target = next((t for t in method.targets if t in own.values), "h")
                    made = found[tap.site][0].values[tap.value]
                    yield tap.site, made, own.values.get(target, own.call)
