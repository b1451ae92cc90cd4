"""roles: name the places of a model by what they do in its dataflow.

Requires: the graph of a whole forward, with concrete sizes. Ensures: the same sites for the same
model, whatever the names of its modules; every site can be found again by `locate`. There is no
table of architectures.
"""

from peftlang.dataflow.multihead import write_out
from peftlang.prompts.sites import entrances
from peftlang.sites.containers import modules
from peftlang.sites.grids import grids
from peftlang.sites.inference import find_sites
from peftlang.sites.planning import Planning
from peftlang.sites.survey import Survey


def roles(work: Planning) -> None:
    """Find every site of the model, unless they are known."""
    if work.found is not None:
        return
    graph = work.graph
    assert graph is not None
    write_out(graph.graph, graph.calls)
    sites = find_sites(graph)
    prompts = entrances(work.root, graph, sites)
    work.found = Survey(
        graph,
        (*sites, *prompts.sites),
        tuple(modules(graph, sites)),
        prompts.tables,
        grids(graph),
        (prompts.why_no_input, prompts.why_no_layer),
    )
