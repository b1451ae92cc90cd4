"""Names for the places of a model, by what they do in its dataflow.

The same model has the same sites, whatever the names of its modules; every site can be found again
by `locate` in another graph of the model.
"""

from collections.abc import Mapping

from peftlang.capture import CapturedGraph
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import Structure
from peftlang.ir.plan import Sees, Site
from peftlang.sites.attention_sites import attention_sites
from peftlang.sites.branch_sites import feed_forward_sites, other_sites
from peftlang.sites.layer_sites import layer_sites, seen_keys, structure_of
from peftlang.sites.sketch import Draft, Sketch
from peftlang.sites.weight_sites import weight_sites


def find_sites(captured: CapturedGraph) -> list[Site]:
    """Every site of the model, in the order in which they run.

    Args:
        captured: A forward of the whole model, with attention in view (`decompose` writes out
            what hides it).
    """
    sketch = Sketch(Reading.of(captured))
    for attention in sketch.reading.attentions:
        attention_sites(sketch, attention)
    for use in list(sketch.reading.by_result.values()):
        feed_forward_sites(sketch, use)
    other_sites(sketch)
    structure = structure_of(sketch)
    layer_sites(sketch, structure)
    sees = seen_keys(sketch, structure)
    weight_sites(sketch)
    drafts = sorted(sketch.drafts.items(), key=lambda item: item[1].at)
    return [_site(key, draft, structure, sees) for key, draft in drafts]


def _site(key: str, draft: Draft, structure: Structure, sees: Mapping[str, Sees]) -> Site:
    stack, layer = structure.place(draft.path)
    layers = structure.layers(stack)
    use = draft.use
    return Site(
        id=key,
        role=draft.role,
        path=draft.path,
        stack=stack,
        side=structure.side(draft.path),
        layer=layer,
        weight=use.weight if use else None,
        bias=use.bias if use else None,
        transposed=bool(use and use.transposed),
        rows=draft.rows,
        anchors=draft.anchors,
        sees=sees.get(stack) if stack else None,
        dims=draft.dims | ({"layers": layers} if layers else {}),
    )
