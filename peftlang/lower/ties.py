"""Ties: tensors that several uses of an adapter have in common."""

from collections.abc import Iterator, Mapping, Sequence

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import Apply, DimValue, Expr, Number, children, postorder
from peftlang.ir.method import Method, TensorDef, Tie
from peftlang.lower.flatten import FlatTie
from peftlang.lower.report import Fault, Report
from peftlang.syntax import nodes as n


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
