"""Compositions: what a method may write at a site, and that the change fits there."""

from collections.abc import Mapping

from peftlang.diagnostics import did_you_mean
from peftlang.ir.builtins import BUILTINS, Signature
from peftlang.ir.builtins.tensors import averages_batch
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Apply, Expr, Ref, postorder
from peftlang.ir.method import Composition
from peftlang.ir.types import Level, Type, TypeFact
from peftlang.lower.declare import Clauses
from peftlang.lower.expressions import lower_expression
from peftlang.lower.report import Fault, Faults, Place, Placed, Report
from peftlang.lower.scope import Scope
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n

_TARGETS = ("h", "x", "q", "k", "v", "W", "b")

_OPERANDS = ("x", "q", "k", "v")
"""Targets that a site reads, and that differ from token to token."""

_LONGER = {"k": Dim.of("keys"), "v": Dim.of("keys"), "h": Dim.of("tokens")}
"""Targets whose first dimension a composition may lengthen."""

_VARIES = {
    Level.CONST: "is the same for every input",
    Level.EXAMPLE: "is one for each row of the batch",
    Level.TOKEN: "is one for each token",
}


def lower_compositions(
    clauses: Clauses, carried: Mapping[str, Type], scope: Scope, report: Report
) -> list[Composition]:
    """The compositions of a method, ``h = h + function`` where none is written.

    Args:
        clauses: The method's.
        carried: The types of its carried states.
        scope: What names stand for.
        report: Takes M302, M303, M316, M319, M322, S403, T208 and what the expressions get wrong.
    """
    written, function = clauses.of(n.Composition), clauses.only(n.Function)
    if not written and function is not None:
        return report.each([function], lambda clause: _default(clause, scope))
    done = report.each(written, lambda clause: _composition(clause, carried, scope))
    if len(done) == len(written):
        report.each(written, lambda clause: _check_lengths(done, clause))
    return done


def _default(function: Placed[n.Function], scope: Scope) -> Composition:
    name, written = function.node.name.text, function.node.value
    value = scope.lets.get(name)
    if value is None:
        raise Faults  # What is wrong with the function has been said.
    old = Ref("h", scope.site.values["h"])
    text = function.beside(written).text
    what = f"`h = h + {text}`" if len(text) <= 30 else "`h` and the function together"
    try:
        type_ = BUILTINS["+"].rule(Signature((old, value)))
    except TypeFact:
        type_ = value.type
    total = Apply("+", (old, value), type_)
    if not _same_shape("h", type_, old.type):
        message = f"`h` is {old.type}, and {what} is {value.type}"
        raise Fault("T208", message, written, help=_shape_help("h", type_, old.type))
    _check_values("h", total, old.type, function.beside(written).place, scope)
    return Composition(target="h", value=total)


def _composition(
    clause: Placed[n.Composition], carried: Mapping[str, Type], scope: Scope
) -> Composition:
    node, target = clause.node, clause.node.target.text
    if target not in carried:
        _check_target(node.target, scope)
    value = lower_expression(node.value, clause.source, scope)
    if target in _OPERANDS and target not in carried:
        _check_order(target, value, clause.beside(node.value).place, scope)
    wanted, have = carried.get(target) or scope.site.values[target], value.type
    if not _same_shape(target, have, wanted):
        message = f"`{target}` is {wanted}, and this is {have}"
        raise Fault("T208", message, node.value, help=_shape_help(target, have, wanted))
    _check_values(target, value, wanted, clause.beside(node.value).place, scope)
    return Composition(target=target, value=value, span=offsets(node))


def _check_order(target: str, value: Expr, place: Place, scope: Scope) -> None:
    """What a site makes of its operands is not there yet where these are changed."""
    result = {"h", "x"} if scope.insertion == "sequential" else {"h"}
    read = next((o for o in postorder(value) if isinstance(o, Ref) and o.name in result), None)
    if read is not None:
        follows = " (with sequential insertion it is `h`)" if read.name == "x" else ""
        message = (
            f"`{read.name}` comes out of what goes in by `{target}`, "
            f"so a change of `{target}` cannot read it{follows}"
        )
        advice = f"write `h`, or read `{target}`"
        raise Fault("M322", message, scope.place(read) or place, help=advice)


def _check_target(node: n.Ident, scope: Scope) -> None:
    target, site = node.text, scope.site
    if target in site.targets:
        return
    has = ", ".join(f"`{name}`" for name in _TARGETS if name in site.targets)
    if target not in _TARGETS:
        message = f"`{target}` is nothing that a composition can write"
        raise Fault("M302", message, node, help=did_you_mean(target, _TARGETS) or f"write {has}")
    if target == "x" and "x" in site.values:
        why = f"`x` at {site.position} is read by more than one projection"
        if scope.insertion == "sequential":
            why = "with sequential insertion `x` is the output"
        raise Fault("M302", f"{why}, and cannot be written", node, help=f"write one of {has}")
    message = f"a site at {site.position} has no `{target}`"
    raise Fault("S403", message, node, help=f"it has {has}")


def _check_values(target: str, value: Expr, wanted: Type, place: Place, scope: Scope) -> None:
    """A target takes real numbers that vary no more than it does, of its own row of the batch."""
    if value.type.level > wanted.level:
        raise _varies(target, value, wanted, place, scope)
    for node in postorder(value):
        if isinstance(node, Apply) and averages_batch(node):
            message = f"`{target}` of one row would depend on the other rows of the batch"
            advice = "`pool(…)` is the mean of each row; `over batch` is for penalties"
            raise Fault("M319", message, scope.place(node) or place, help=advice)
    if value.type.kind == "complex":
        message = f"`{target}` is real, and this is complex"
        raise Fault("T208", message, place, help="`real(…)` of it")


def _varies(target: str, value: Expr, wanted: Type, place: Place, scope: Scope) -> Fault:
    read = (node for node in postorder(value) if isinstance(node, Ref))
    cause = next((ref for ref in read if ref.type.level > wanted.level), None)
    at = (cause and scope.place(cause)) or place
    name = cause.name if cause is not None else "this"
    if target in ("W", "b"):
        message = f"`{target}` is a weight, the same for every token, and `{name}` is not"
        labels = [] if at == place else [(place, f"composed into `{target}`")]
        advice = "a change that reads the hidden state is composed with `h`"
        return Fault("M303", message, at, help=advice, labels=labels)
    message = f"`{target}` {_VARIES[wanted.level]}, and `{name}` {_VARIES[value.type.level]}"
    return Fault("M316", message, at, help="compose what reads single tokens with `h`")


def _same_shape(target: str, have: Type, wanted: Type) -> bool:
    if have.dims == wanted.dims:
        return True
    longer = _LONGER.get(target)
    if longer is None or wanted.dims[:1] != (longer,) or not have.dims:
        return False
    # A prompt keeps its own tokens, so that what the caller sees can keep its length.
    own = target == "h" and (have.dims[0] - longer).symbols & longer.symbols
    return have.dims[1:] == wanted.dims[1:] and not own


def _check_lengths(done: list[Composition], clause: Placed[n.Composition]) -> None:
    """Keys and values come in pairs, so they are lengthened by the same number."""
    lengths = {c.target: c.value.type.dims[0] for c in done if c.target in ("k", "v")}
    keys, values = (lengths.get(target, _LONGER["k"]) for target in ("k", "v"))
    if keys != values and clause.node.target.text == next(iter(lengths)):
        message = f"there would be {keys} keys and {values} values"
        raise Fault("T208", message, clause.node, help="compose `k` and `v` alike")


def _shape_help(target: str, have: Type, wanted: Type) -> str | None:
    if len(have.dims) == 2 and have.dims[::-1] == wanted.dims:
        return "`transpose(…)` of it fits"
    if have.size == wanted.size:
        return f"`reshape(…, {', '.join(map(str, wanted.dims))})` of it fits"
    if target == "h" and wanted.dims[:1] == (Dim.of("tokens"),):
        return "`concat(P, h)` keeps the sequence's own tokens"
    return None
