"""What is known of a model's positions: its graph, every site found in it, and where each runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peftlang.capture import CapturedGraph
from peftlang.ir.plan import Site
from peftlang.sites.locate import locate
from peftlang.sites.missing import found_instead
from peftlang.sites.occurrence import Located


@dataclass(frozen=True, eq=False)
class Survey:
    """A model's positions.

    Attributes:
        graph: One call of the whole model, in evaluation mode.
        sites: Every site.
        containers: The modules that have no role of their own: what a path may name besides.
        tables: Learned positions, whose numbers tokens keep when others come in before them.
        grids: What cuts images into patches, and how many tokens stand before and after those
            patches, at each stage of their sequence.
        no_prompt: Why soft tokens cannot come in at the model's input, and at layers of it.
    """

    graph: CapturedGraph
    sites: tuple[Site, ...]
    containers: tuple[Site, ...] = ()
    tables: tuple[Site, ...] = ()
    grids: tuple[Any, ...] = ()
    no_prompt: tuple[str, str] = ("", "")
    _known: dict[str, Located] = field(default_factory=dict)

    def why_missing(self, role: str) -> str:
        """What there is instead of a role that has no site; "" for nothing like it."""
        if role.startswith("prompt"):
            return self.no_prompt[role != "prompt"]
        return found_instead(role, self.graph, self.sites)

    def located(self, sites: Iterable[Site]) -> Located:
        """Where sites run in the graph."""
        wanted = list(sites)
        new = [site for site in wanted if site.id not in self._known]
        if new:
            found = locate(self.graph, new)
            for site in new:
                missing = [m for m in found.missing if m.site.id == site.id]
                known = {site.id: found.found[site.id]} if site.id in found.found else {}
                self._known[site.id] = Located(known, missing)
        each = [self._known[site.id] for site in wanted]
        return Located(
            {k: v for one in each for k, v in one.found.items()},
            [m for one in each for m in one.missing],
        )
