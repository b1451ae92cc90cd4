"""Tensors that several uses of an adapter have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import Apply, DimValue, Expr, Number, children, postorder
from peftlang.ir.method import Method, TensorDef, Tie
from peftlang.lower.clauses import Placed
from peftlang.lower.report import Place, Report
from peftlang.lower.uses import Flat, Tying, labels_of
from peftlang.syntax import nodes as n

ALL = "uses"
"""After ``across`` in an adapter: every use that has the tensor."""


@dataclass(frozen=True)
class Tied:
    """One name of one clause, and which placings it speaks of.

    Attributes:
        name: The tensor.
        clause: Where it is said.
        placings: Numbers of the placings.
        named: Whether each of them is named, so that each must have the tensor.
    """

    name: n.Ident
    clause: Placed[n.Tie]
    placings: tuple[int, ...]
    named: bool

    @property
    def place(self) -> Place:
        return Place(self.clause.source, self.name.span)


def tied(flat: Flat, report: Report) -> list[Tied]:
    """What the ``sharing`` clauses of an adapter name, by the names that uses have in its text.

    Args:
        flat: The adapter, its placings called as they are written.
        report: Takes N104, there is no such use.
    """
    found: list[Tied] = []
    for tying in flat.tyings:
        node = tying.clause.node
        named = [use.text for use in node.uses] != [ALL]
        numbers = _numbers(flat, tying, report) if named else range(tying.first, tying.last)
        found += [Tied(name, tying.clause, tuple(numbers), named) for name in node.names]
    return found


def _numbers(flat: Flat, tying: Tying, report: Report) -> Iterator[int]:
    labels = labels_of(p.name for p in flat.placings[tying.first : tying.last])
    for use in tying.clause.node.uses:
        if use.text in labels:
            yield tying.first + labels.index(use.text)
            continue
        shown = ", ".join(f"`{label}`" for label in labels)
        report.error(
            "N104", f"there is no use `{use.text}` here", Place(tying.clause.source, use.span),
            help=did_you_mean(use.text, labels) or f"there are {shown}; `across {ALL}` means all",
        )  # fmt: skip


def lower_ties(
    wanted: Sequence[Tied], methods: Sequence[Method], labels: Sequence[str], report: Report
) -> list[Tie]:
    """Ties of tensors that are declared alike.

    Args:
        wanted: From `tied`.
        methods: The method of each placing, its arguments fixed as far as they are known.
        labels: The label of each placing.
        report: Takes M301, tied twice; M306, no such tensor, or one of a single use; M320, uses
            that declare it otherwise.
    """
    ties: list[Tie] = []
    taken: set[tuple[int, str]] = set()
    for entry in wanted:
        name = entry.name.text
        having = {i: t for i in entry.placings if (t := _tensor(methods[i], name)) is not None}
        if not _enough(entry, having, methods, labels, report):
            continue
        if any((i, name) in taken for i in having):
            report.error("M301", f"the sharing of `{name}` is said twice", entry.place)
            continue
        taken |= {(i, name) for i in having}
        _check_alike(entry, having, labels, report)
        ties.append(Tie(tensor=name, uses=tuple(labels[i] for i in having)))
    return ties


def _tensor(method: Method, name: str) -> TensorDef | None:
    return next((tensor for tensor in method.tensors if tensor.name == name), None)


def _enough(
    entry: Tied, having: Mapping[int, TensorDef], methods: Sequence[Method],
    labels: Sequence[str], report: Report,
) -> bool:  # fmt: skip
    """Whether several uses have the tensor, and all that are named."""
    lacking = [labels[i] for i in entry.placings if i not in having] if entry.named else []
    if not lacking and len(having) > 1:
        return True
    own = [labels[i] for i in having]
    which = f"of `{own[0]}` alone" if own and not lacking else "of no use here"
    if lacking:
        which = f"not of `{lacking[0]}`"
    known = {tensor.name for i in entry.placings for tensor in methods[i].tensors}
    report.error(
        "M306", f"`{entry.name.text}` is a tensor {which}", entry.place,
        help=did_you_mean(entry.name.text, known - {entry.name.text})
        or "name a tensor that each of several uses has",
    )  # fmt: skip
    return False


def _check_alike(
    entry: Tied, having: Mapping[int, TensorDef], labels: Sequence[str], report: Report
) -> None:
    (first, tensor), *others = having.items()
    for number, other in others:
        for what, differs in _differences(tensor, other).items():
            if differs:
                report.error(
                    "M320", f"`{tensor.name}` is to be one tensor, and `{labels[first]}` and "
                    f"`{labels[number]}` {what}", entry.place,
                    help="declare it alike in both methods",
                )  # fmt: skip
                return


def _differences(one: TensorDef, other: TensorDef) -> dict[str, bool]:
    """In which ways two declarations of a tensor differ; sizes show at the sites."""
    return {
        "do not both train it": one.trainable != other.trainable,
        "give it other dimensions": len(one.dims) != len(other.dims),
        "hold other numbers in it": one.kind != other.kind,
        "share it across other axes": (one.across or "") != (other.across or ""),
        "start it otherwise": _start(one) != _start(other),
        "let it learn at other rates": _form(one.rate) != _form(other.rate),
    }


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
