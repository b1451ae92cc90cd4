"""Which tensors are one and the same at several sites."""

from dataclasses import dataclass
from typing import cast, get_args

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.method import Axis
from peftlang.lower.clauses import Clauses, Placed
from peftlang.lower.report import Place, Report
from peftlang.syntax import nodes as n

AXES: tuple[str, ...] = get_args(Axis)


@dataclass(frozen=True)
class Shared:
    """Who shares a tensor: axes, and the size of a group of layers where not all of them do."""

    axes: tuple[Axis, ...]
    size: Placed[n.Expr] | None = None


def shared_axes(clauses: Clauses, report: Report) -> dict[str, Shared]:
    """The axis of every tensor that is shared, from declarations and ``sharing`` clauses.

    Reports M306 for a name that is no tensor, M307 for an unknown axis, and M301 for a tensor
    whose axis is said twice.
    """
    found: dict[str, Shared] = {}
    tensors = {entry.node.name.text for entry in clauses.tensors}
    for entry in clauses.tensors:
        if entry.node.shared is not None and clauses.shared_inline:
            _share(found, entry.node.name, entry.node.shared, entry.source, report)
    for sharing in clauses.sharings:
        axis = sharing.node.axis
        if axis is None:
            if len(clauses.sharings) > 1 or found:
                report.error("M301", "`sharing none` stands beside tensors that are shared",
                             sharing.place, help="leave it out")  # fmt: skip
            continue
        for ident in sharing.node.names:
            if ident.text not in tensors:
                report.error(
                    "M306", f"`{ident.text}` is not a tensor of this method",
                    Place(sharing.source, ident.span), help=did_you_mean(ident.text, tensors),
                )  # fmt: skip
                continue
            _share(found, ident, axis, sharing.source, report)
    return found


def _share(
    found: dict[str, Shared], ident: n.Ident, axis: n.Axis, source: Source, report: Report
) -> None:
    parts = n.axes_of(axis)
    names = [part.name if isinstance(part, n.Grouped) else part for part in parts]
    known = [_is_axis(*pair, source, report) for pair in zip(parts, names, strict=True)]
    if not all(known):
        return
    axes = tuple(dict.fromkeys(cast("Axis", name.text) for name in names))
    if len(axes) < len(parts) or (len(axes) > 1 and not _WHOLE.isdisjoint(axes)):
        report.error("M307", "one of these says it all, or is said twice",
                     Place(source, axis.span), help="name each axis once")  # fmt: skip
        return
    if ident.text in found:
        report.error("M301", f"the sharing of `{ident.text}` is said twice",
                     Place(source, ident.span))  # fmt: skip
        return
    sizes = [Placed(part.size, source) for part in parts if isinstance(part, n.Grouped)]
    found[ident.text] = Shared(axes, sizes[0] if sizes else None)


_WHOLE = {"model", "stack", "experts"}
"""Axes that another adds nothing to, or that add nothing to another."""


def _is_axis(part: n.Ident | n.Grouped, name: n.Ident, source: Source, report: Report) -> bool:
    if name.text not in AXES:
        report.error(
            "M307", f"`{name.text}` is not something to share across", Place(source, name.span),
            help=did_you_mean(name.text, AXES) or f"there are {', '.join(AXES)}",
        )  # fmt: skip
        return False
    if name is not part and name.text != "layers":
        report.error("M307", f"`{name.text}` has no groups", Place(source, part.span),
                     help="`layers(4)` is a group of four layers")  # fmt: skip
        return False
    return True
