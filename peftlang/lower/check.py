"""Checks of what is typed: names, what never trains, impossible arguments, tensors in common."""

from collections.abc import Iterator, Mapping, Sequence

from peftlang.diagnostics import did_you_mean
from peftlang.ir.dims import Dim, Indivisible, Quotient, TooComplex
from peftlang.ir.expr import Apply, DimValue, Expr, Number, Scalar, children, names, postorder
from peftlang.ir.gradients import never_trained
from peftlang.ir.method import Method, TensorDef, Tie, fixed
from peftlang.ir.sizes import counts_too_many, out_of_range
from peftlang.lower.arguments import known
from peftlang.lower.declare import Declarations
from peftlang.lower.flatten import FlatTie
from peftlang.lower.report import Fault, Place, Report
from peftlang.lower.scope import SiteKind
from peftlang.lower.walk import names_read
from peftlang.syntax import nodes as n

_NEVER_HIDDEN = frozenset({"x", "h", "W"})
"""Values whose names no declaration may take where the site has them."""

_MEANT = {
    "b": "its bias",
    "q": "its queries",
    "k": "its keys",
    "v": "its values",
    "resid": "the residual stream",
}
"""The others, in words."""


def check_hidden(declared: Declarations, kind: SiteKind, report: Report) -> None:
    """Report declarations that hide what a site has (N114), or must not (N112)."""
    targets = {clause.node.target.text for clause in declared.clauses.of(n.Composition)}
    for name, entry in declared.names.items():
        if name not in kind.values:
            continue
        if name in _NEVER_HIDDEN | targets:
            message = f"`{name}` is what a site at {kind.position} calls its own"
            report.error("N112", message, entry.place, help="give it another name")
        elif kind.certain and declared.kinds.get(name) != "int":
            # A whole number is a size, which nothing else of that name can be.
            message = f"`{name}` hides what the site has of that name, {_MEANT[name]}"
            advice = f"another name, such as `{name}_0`, says which one is meant"
            report.warning("N114", message, entry.place, help=advice)


def warn_of_unread(declared: Declarations, method: Method, report: Report) -> None:
    """Report names that nothing reads (N113), and a change that trains nothing (M311).

    A method of penalties alone changes nothing: what it is for is trained by others beside it.
    """
    clauses, definition = declared.clauses, declared.use.method
    defaults = (p.default for p in definition.node.parameters if p.default is not None)
    read = set(names_read(*clauses.nodes, *defaults))
    function = clauses.only(n.Function)
    if function is not None and not clauses.of(n.Composition):
        read.add(function.node.name.text)
    for name, entry in declared.names.items():
        if name not in read:
            report.warning("N113", f"`{name}` is {entry.what} that nothing reads", entry.place)
    trained = {tensor.name for tensor in method.tensors if tensor.trainable}
    values = [composition.value for composition in method.compositions]
    if values and not trained & names(*values, *method.penalties):
        message = f"`{method.name}` reads no parameter, so there is nothing to train"
        report.warning("M311", message, definition.place)


def warn_of_dead_start(declared: Declarations, method: Method, report: Report) -> None:
    """Report parameters that never get a gradient, whatever the data (M321)."""
    dead = never_trained(fixed(method, known(declared.use.values)))
    if dead:
        shown = " and ".join(f"`{name}`" for name in dead)
        what = "what it is" if len(dead) == 1 else "what they are"
        message = f"{shown} cannot train: {what} multiplied with starts at zero, and stays so"
        advice = "start a factor elsewhere than at zero, such as at `normal(std = 0.02)`"
        report.warning("M321", message, declared.names[dead[0]].place, help=advice)


def check_arguments(
    method: Method, args: Mapping[str, Scalar], place: Place, report: Report
) -> bool:
    """Report what arguments make impossible; True where they make nothing so.

    Args:
        method: Its arguments not fixed.
        args: Those that are known.
        place: What to point at.
        report: Takes T205 and T206, impossible sizes; T212, numbers that are out of range.
    """
    mine = Report()
    sizes = {
        name: value
        for name, value in args.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    _check_shapes(method, sizes, place, mine)
    if not mine.failed:
        ready = fixed(method, dict(args))
        for fact in (*out_of_range(ready, sizes), *counts_too_many(ready, sizes)):
            mine.error("T212", f"with these arguments {fact}", place)
    report.extend(mine.diagnostics)
    return not mine.failed


def _check_shapes(method: Method, sizes: Mapping[str, int], place: Place, report: Report) -> None:
    shapes = [(tensor.name, tensor.dims) for tensor in method.tensors]
    shapes += [(entry.name, entry.dims) for entry in method.inputs]
    shapes += [(entry.name, (entry.limit,)) for entry in method.inputs if entry.limit is not None]
    for name, dim in ((name, dim) for name, dims in shapes for dim in dims):
        fault = _impossible(dim, sizes)
        if fault is not None:
            code, message = fault
            given = ", ".join(f"`{s} = {sizes[s]}`" for s in sorted(dim.symbols & set(sizes)))
            where = f"in the shape of `{name}`" + (f", with {given}," if given else "")
            report.error(code, f"{where} {message}", place)
            return


def _impossible(dim: Dim, sizes: Mapping[str, int]) -> tuple[str, str] | None:
    """What is wrong with a size for certain, and its code."""
    try:
        size = dim.substitute(sizes)
        for monomial, _ in size.terms:
            for atom, _ in monomial:
                if isinstance(atom, Quotient) and not _symbols(atom):
                    Dim(((((atom, 1),), 1),)).evaluate({})
        whole = size.constant if size.symbols else size.evaluate({})
    except Indivisible as fact:
        return "T206", f"{fact.top} is not divisible by {fact.bottom}"
    except ZeroDivisionError:
        return "T205", f"`{dim}` divides by zero"
    except TooComplex:
        return "T205", f"`{dim}` is too large"
    if whole is not None:
        return None if whole > 0 else ("T205", f"`{dim}` is {whole}")
    negative = all(coefficient < 0 for _, coefficient in size.terms)
    return ("T205", f"`{dim}` is negative") if negative else None


def _symbols(quotient: Quotient) -> frozenset[str]:
    return quotient.numerator.symbols | quotient.denominator.symbols


def lower_ties(
    ties: Sequence[FlatTie], methods: Sequence[Method], labels: Sequence[str], report: Report
) -> list[Tie]:
    """Ties of tensors that are declared alike.

    Args:
        ties: What the adapter says.
        methods: The method of each use, its arguments fixed as far as they are known.
        labels: The label of each use.
        report: Takes M301, tied twice; M306, no such tensor, or one of a single use; M320, uses
            that declare it otherwise.
    """
    found: list[Tie] = []
    taken: set[tuple[int, str]] = set()
    for tie in ties:
        name = tie.name.node.text
        with report.faults(tie.name.source):
            having = _having(tie, methods, labels)
            if any((number, name) in taken for number in having):
                raise Fault("M301", f"the sharing of `{name}` is said twice", tie.name.node)
            taken |= {(number, name) for number in having}
            _check_alike(tie.name.node, having, labels)
            found.append(Tie(tensor=name, uses=tuple(labels[number] for number in having)))
    return found


def _having(tie: FlatTie, methods: Sequence[Method], labels: Sequence[str]) -> dict[int, TensorDef]:
    """The tensor of each use that has it: of several uses, and of all that are named."""
    name = tie.name.node
    known = {number: {t.name: t for t in methods[number].tensors} for number in tie.uses}
    having = {number: own[name.text] for number, own in known.items() if name.text in own}
    lacking = [labels[number] for number in tie.uses if number not in having] if tie.named else []
    if not lacking and len(having) > 1:
        return having
    which = "of no use here"
    if lacking:
        which = f"not of `{lacking[0]}`"
    elif having:
        which = f"of `{labels[next(iter(having))]}` alone"
    others = {tensor for own in known.values() for tensor in own} - {name.text}
    advice = did_you_mean(name.text, others) or "name a tensor that each of several uses has"
    raise Fault("M306", f"`{name.text}` is a tensor {which}", name, help=advice)


def _check_alike(name: n.Ident, having: Mapping[int, TensorDef], labels: Sequence[str]) -> None:
    (first, tensor), *others = having.items()
    for number, other in others:
        for what in _differences(tensor, other):
            pair = f"`{labels[first]}` and `{labels[number]}`"
            message = f"`{name.text}` is to be one tensor, and {pair} {what}"
            raise Fault("M320", message, name, help="declare it alike in both methods")


def _differences(one: TensorDef, other: TensorDef) -> Iterator[str]:
    """In which ways two declarations of a tensor differ; sizes show at the sites."""
    if one.trainable != other.trainable:
        yield "do not both train it"
    if len(one.dims) != len(other.dims):
        yield "give it other dimensions"
    if one.kind != other.kind:
        yield "hold other numbers in it"
    if one.across != other.across:
        yield "share it across other axes"
    if _start(one) != _start(other):
        yield "start it otherwise"
    if _form(one.rate) != _form(other.rate):
        yield "let it learn at other rates"


def _start(tensor: TensorDef) -> object:
    init = tensor.init
    keywords = sorted((key, _form(value)) for key, value in init.keywords)
    return init.name, tuple(map(_form, init.args)), keywords, _form(init.expression)


def _form(expr: Expr | None) -> tuple[object, ...]:
    """An expression without its places: the same for two that are written alike."""
    if expr is None:
        return ()
    nodes = list(postorder(expr))
    number = {id(node): index for index, node in enumerate(nodes)}
    return tuple((_own(node), *(number[id(c)] for c in children(node))) for node in nodes)


def _own(node: Expr) -> tuple[object, ...]:
    if isinstance(node, Apply):
        return node.op, node.over, tuple(key for key, _ in node.keywords)
    if isinstance(node, Number):
        return ("number", node.value)
    return ("size", node.dim) if isinstance(node, DimValue) else ("name", node.name)
