"""regions: the smallest part of the model that holds what a method reads and writes at a site.

Requires: a plan whose sites run in the model's graph. Ensures: a region is one operation, the
border of one module, or a module whose operations are read or changed one by one; what it needs of
other places shows at some module's border before it is needed. Where a tap reads what the model
makes only later, though not out of what reads it, the model runs as one graph, in another order.
There is no table of architectures.
"""

from peftlang.emit.applications import applications
from peftlang.ir.plan import ActivePlan, Reason, Region
from peftlang.regions.smallest import regions_of
from peftlang.regions.usage import usage_of
from peftlang.sites.order import read_ahead
from peftlang.sites.planning import Planning


def regions(work: Planning) -> None:
    """Say for each use at each site which part of the model holds it.

    Raises:
        PeftError: S417, a tap reads what is computed from what reads it.
    """
    plan, survey = work.plan, work.survey
    found = survey.located(s for s in plan.concerned.values() if s.role != "prompt").found
    ahead = read_ahead(plan, survey)
    acting = applications([ActivePlan(name="", plan=plan)])
    placements = []
    for placement in plan.placements:
        own: dict[str, Region] = {}
        for site in (name for name in placement.sites if name in found):
            mine = [a for a in acting[site] if a.placement is placement]
            _, own[site] = regions_of(survey.graph, usage_of(found[site], mine, ()))[0]
        for site in (name for name in placement.sites if name not in found):
            own[site] = Region(kind="call", path="", reason=Reason(kind="arguments"))
        if ahead:
            reason = Reason(kind="ahead", names=(ahead,))
            own = {site: Region(kind="whole", path="", reason=reason) for site in own}
        placements.append(placement.model_copy(update={"regions": own}))
    work.plan = plan.model_copy(update={"placements": tuple(placements)})
