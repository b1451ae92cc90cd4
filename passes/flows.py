"""What one application of a method reads from other sites, and hands on."""

from math import prod
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Expr, Ref, postorder
from peftlang.ir.interpret import Interpreter
from peftlang.ir.method import Composition, TapDef
from peftlang.ir.plan import Site
from peftlang.ir.positions import POSITIONS
from peftlang.ir.types import Level
from peftlang.passes.entering import entries, later_at
from peftlang.passes.occurrence import Occurrence
from peftlang.passes.streams import Chain, Streams, chain_of
from peftlang.passes.tokens import REAL, sequence_of, soft_slot, token_slot
from peftlang.passes.views import SiteView

if TYPE_CHECKING:
    from peftlang.passes.steps import Application


def reads_activations(penalty: Expr) -> bool:
    """Whether a penalty is of what runs, and not of parameters alone."""
    refs = (node for node in postorder(penalty) if isinstance(node, Ref))
    return any(ref.type.level is not Level.CONST for ref in refs)


class Flows:
    """The taps, carried states and penalties of one application at one occurrence.

    Attributes:
        arrived: The node of each tap and of each state that an earlier site left.
    """

    def __init__(
        self, streams: Streams, graph: int, application: "Application", occurrence: Occurrence
    ) -> None:
        self.application, self._streams = application, streams
        self._graph, self._occurrence = graph, occurrence
        self._carries = {carry.name: carry for carry in application.method.carries}
        self._started: dict[str, Any] = {}
        taps = application.placement.taps.get(application.site.id, {})
        self.arrived: dict[str, Node] = {
            name: streams.tapped(tap, graph, occurrence) for name, tap in taps.items()
        }
        for name in self._carries:
            node = streams.arriving(self._chain(name), graph, occurrence)
            if node is not None:
                self.arrived[name] = node

    def _chain(self, name: str) -> Chain:
        application = self.application
        plan = self._streams.plan_of(application.adapter)
        sites = [plan.sites[site] for site in application.placement.sites]
        return chain_of(
            application.adapter, application.placement.label, sites, application.site, name
        )

    def has(self, name: str) -> bool:
        """Whether a name is a tap or a carried state."""
        return name in self.arrived or name in self._carries

    def value(self, name: str, view: SiteView, interpret: Interpreter) -> Any:
        """What a tap or a carried state is at the site."""
        if name in self.arrived:
            return self._as_here(name, view)
        if name not in self._started:
            carry = self._carries[name]
            start = interpret(carry.init)
            if (not carry.init.type.dims and carry.dims) or isinstance(start, int | float):
                start = self._filled(start, [interpret.size(dim) for dim in carry.dims], view)
            self._started[name] = start
        return self._started[name]

    def real(self, dim: Dim, view: SiteView) -> Any:
        """Which tokens of the tapped sequence of this length are no padding, ``[batch, length]``.

        None where all are, or the length is of no tapped sequence.
        """
        for tap in self.application.method.taps:
            if tap.sequence and tap.dims[0] == dim:
                other = self._site_of(tap.name)
                return self._filled_part(self._real_of(other, view), other, view)
        if self._occurrence.site.role == "prompt" and dim == Dim.of("tokens"):
            return self._real_before(view)
        return None

    def _real_before(self, view: SiteView) -> Any:
        """Which tokens of the sequence that a prompt finds are no padding."""
        site, application = self._occurrence.site, self.application
        real = self._filled_part(self._real_of(site, view), site, view)
        own = [entry for entry in entries(view.reads.active) if entry.site.id == site.id]
        mine = [(e.adapter, e.label) for e in own].index(
            (application.adapter, application.placement.label)
        )
        return None if real is None else real[:, sum(entry.count for entry in own[mine:]) :]

    def _site_of(self, tap: str) -> Site:
        """The site that a tap reads."""
        application = self.application
        read = application.placement.taps[application.site.id][tap].site
        return self._streams.plan_of(application.adapter).concerned[read]

    def _real_of(self, site: Site, view: SiteView) -> Any:
        slot = token_slot(sequence_of(site), REAL)
        return view.emission.proxy(view.reads(slot)) if slot in view.reads.given else None

    def _filled_part(self, value: Any, site: Site, view: SiteView) -> Any:
        """A sequence ``[batch, tokens, …]`` at a site without room that is still to be filled."""
        waits = soft_slot(sequence_of(site)) in view.reads.given
        room = later_at(view.reads.active, site) if waits else 0
        return value[:, room:] if room and value is not None else value

    def _as_here(self, name: str, view: SiteView) -> Any:
        """What arrived, with batch and tokens as one dimension where the site has them so."""
        node = self.arrived[name]
        value: Any = view.emission.proxy(node)
        tap = next((t for t in self.application.method.taps if t.name == name), None)
        theirs, ours = node.meta.get("example_value"), None
        if tap is not None and not tap.sequence and view.occurrence.product is None:
            ours = view.node("h").meta.get("example_value")
        if tap is not None and tap.sequence:
            return self._filled_part(value, self._site_of(name), view)
        if tap is None or theirs is None or ours is None:
            return value
        flat, here = theirs.dim() - len(tap.dims) == 1, ours.dim() == 2
        if not flat and not here:
            self._check_length(tap, theirs, ours, view)
        if flat and not here:
            shape: Any = view.emission.proxy(view.node("h")).shape
            return value.unflatten(0, [shape[0], shape[1]])
        return value.flatten(0, 1) if here and not flat else value

    def _check_length(self, tap: TapDef, theirs: Any, ours: Any, view: SiteView) -> None:
        """Token by token, both have to have as many."""
        there, here = (view.reads.sizes.now(value.shape[1]) for value in (theirs, ours))
        if there != here:
            site = self.application.site
            raise PeftError(
                f"the tap `{tap.name}` reads {there} tokens, and {site.id} has {here}",
                code="S416",
                help=f"tap a site of the same sequence, or the whole of it: `{tap.name}[n, ...]`",
            )

    def _filled(self, start: Any, sizes: list[int], view: SiteView) -> Any:
        """A number for every token, and for every element of the state."""
        token: Any = view.read("h").detach()
        for _ in POSITIONS.get(view.occurrence.site.role, POSITIONS["block"])["h"].dims:
            token = token.select(-1, 0)
        filled = token * 0 + start
        if not sizes:
            return filled
        filled = filled.unsqueeze(-1).repeat_interleave(prod(sizes), dim=-1)
        return filled.unflatten(-1, sizes) if len(sizes) > 1 else filled

    def leave(self, composition: Composition, value: Any, interpret: Interpreter) -> None:
        """Hand a carried state to the next site."""
        if composition.value.type.level is not Level.TOKEN:
            before = interpret(Ref(composition.target, composition.value.type))
            value = before * 0 + (
                value.unsqueeze(1) if composition.value.type.level is Level.EXAMPLE else value
            )
        chain = self._chain(composition.target)
        self._streams.leaving(chain, self._graph, self._occurrence, value.node)

    def penalise(self, interpret: Interpreter, view: SiteView) -> None:
        """Add the site's share to the penalties: the mean over real tokens."""
        application = self.application
        name = f"{application.adapter}.{application.placement.label}"
        for penalty in application.method.penalties:
            if reads_activations(penalty):
                value = interpret(penalty).float()
                if penalty.type.level is not Level.CONST:
                    value = view.average(value, penalty.type)
                self._streams.penalties.setdefault(name, []).append((self._graph, value.node))
