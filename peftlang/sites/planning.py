"""What the plan passes share while they place an adapter on a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from peftlang.capture import CapturedGraph
from peftlang.dataflow.listing import listing
from peftlang.ir.method import Adapter
from peftlang.ir.outline import outline, sites_text
from peftlang.ir.plan import Plan
from peftlang.sites.survey import Survey


@dataclass(eq=False)
class Planning:
    """An adapter on its way to a plan.

    Attributes:
        root: The model.
        adapter: What is to be placed.
        shapes: The model's parameters by name.
        special_ids: What the model calls its special tokens.
        graph: One call of the model; None where it was surveyed before.
    """

    root: nn.Module
    adapter: Adapter
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    special_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    graph: CapturedGraph | None = None
    found: Survey | None = None
    made: Plan | None = None

    def __str__(self) -> str:
        """The plan as text; before there is one the model's sites, or else its graph."""
        if self.made is not None:
            return outline(self.made)
        if self.found is not None:
            uses = "".join(f"{use.label} at {use.selector}\n" for use in self.adapter.uses)
            return (uses and f"{uses}\n") + sites_text(self.found.sites)
        assert self.graph is not None
        return listing(self.graph.graph, self.graph.facts.given_name)

    @property
    def survey(self) -> Survey:
        """The model's sites."""
        assert self.found is not None
        return self.found

    @property
    def plan(self) -> Plan:
        """The plan as it is so far."""
        assert self.made is not None
        return self.made

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.made = plan
