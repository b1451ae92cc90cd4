"""The modules of a model as sites, for positions given as module paths.

There is a site of role ``module``, with `x` and `h`, for every module with parameters whose call
takes one hidden state in and gives one out, and that no role already names whole.
"""

from collections.abc import Iterable

from peftlang.capture import CapturedGraph
from peftlang.dataflow.calls import Region, regions
from peftlang.dataflow.flow import shape_of
from peftlang.dataflow.reading import Reading
from peftlang.dataflow.structure import is_inside, item_path
from peftlang.ir.plan import Site

NAMED = frozenset({"linear", "head", "norm", "embed", "block"})
"""Roles that say what a single module is."""


def modules(graph: CapturedGraph, sites: Iterable[Site]) -> list[Site]:
    """A site for each module that has none yet, in the order in which they are first called."""
    known = list(sites)
    taken = {site.path for site in known if site.role in NAMED}
    taken |= {path for site in known if site.role == "embed" for path in _above(site.path)}
    places = {(s.stack, s.layer): s for s in known if s.stack is not None}
    found: dict[str, Site] = {}
    reading = Reading.of(graph)
    for path in _called(graph):
        if path not in taken and path not in found:
            calls = regions(reading.flow, path)
            anchors = _applied(graph, path)
            if calls and anchors:
                found[path] = _site(path, calls[0], anchors, places.values())
    return list(found.values())


def _above(path: str) -> list[str]:
    """The modules around one: around an embedding, they take ids and not a hidden state."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _called(graph: CapturedGraph) -> list[str]:
    paths = (path for node in graph.graph.nodes for path in graph.facts.module_paths(node))
    return [path for path in dict.fromkeys(paths) if path]


def _applied(graph: CapturedGraph, path: str) -> tuple[str, ...]:
    """The parameters that the module and those inside it own, first names only."""
    owned = graph.facts.names.owned
    inside = (names for p, names in owned.items() if p == path or p.startswith(path + "."))
    used = set(graph.facts.parameters.values())
    return tuple(sorted({name for names in inside for name in names} & used))


def _site(path: str, call: Region, anchors: tuple[str, ...], known: Iterable[Site]) -> Site:
    place = next((s for s in known if _is_inside(path, s)), None)
    dims = {"d_x": int(shape_of(call.x)[-1]), "d_h": int(shape_of(call.h)[-1])}
    if place and "layers" in place.dims:
        dims["layers"] = place.dims["layers"]
    return Site(
        id=f"{path}#module",
        role="module",
        path=path,
        stack=place.stack if place else None,
        side=place.side if place else None,
        layer=place.layer if place else None,
        anchors=anchors,
        dims=dims,
    )


def _is_inside(path: str, site: Site) -> bool:
    return site.stack is not None and is_inside(path, item_path(site.stack, site.layer))
