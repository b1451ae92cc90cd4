"""Arguments: which argument of a call is for what, and the values of hyper-parameters."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, cast

from peftlang.diagnostics import did_you_mean
from peftlang.ir.expr import Scalar
from peftlang.ir.method import HyperParameter
from peftlang.lower.constants import Unknown, Values, constant, fitted, in_words
from peftlang.lower.load import Definition
from peftlang.lower.report import Fault, Gathering, Place, Placed, Report
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n


@dataclass(frozen=True)
class Callee:
    """Something that is called, and the arguments that it takes.

    Attributes:
        usage: How it is called, for messages.
        arity: Fewest and most arguments by place.
        keywords: Arguments by name.
        order: Names of the arguments by place, where these have names.
        required: Names of the arguments that must be given.
        over: Whether dimensions may be given after ``over``.
        place: Where it is defined.
    """

    name: str
    usage: str
    arity: tuple[int, int]
    keywords: Collection[str] = ()
    order: Sequence[str] = ()
    required: Collection[str] = ()
    over: bool = False
    place: Place | None = None


@dataclass(frozen=True)
class Bound:
    """The arguments of a call: those by place, those with names, dimensions after ``over``."""

    operands: list[n.Expr]
    keywords: dict[str, n.Expr]
    over: list[n.Over]


def callee_of(definition: Definition) -> Callee:
    """A method or adapter as something that is called."""
    parameters = definition.node.parameters
    names = [parameter.name.text for parameter in parameters]
    return Callee(
        definition.name,
        "it has " + (", ".join(f"`{name}`" for name in names) or "none"),
        arity=(0, len(names)),
        keywords=names,
        order=names,
        required=[p.name.text for p in parameters if p.default is None],
        place=definition.place,
    )


def bind(called: n.Node, given: Sequence[n.Argument | n.Over], callee: Callee) -> Bound:
    """Which argument of a call is for what.

    Args:
        called: The name by which it is called.
        given: The arguments.
        callee: What takes them.

    Raises:
        Faults: N110, it takes no such argument; N111, one is given twice, or one is missing.
    """
    arguments = [argument for argument in given if isinstance(argument, n.Argument)]
    operands = [argument.value for argument in arguments if argument.name is None]
    bound = Bound(operands, dict(zip(callee.order, operands, strict=False)), [])
    gathering = Gathering()
    for argument in given:
        with gathering:
            if isinstance(argument, n.Over):
                if not callee.over:
                    message = f"`{callee.name}` does not work over a dimension"
                    raise Fault("N110", message, argument, help=callee.usage)
                bound.over.append(argument)
            elif argument.name is not None:
                _check_name(argument.name, bound, callee)
                bound.keywords[argument.name.text] = argument.value
    gathering.check()
    _check_count(called, operands, callee)
    missing = [name for name in callee.required if name not in bound.keywords]
    if missing:
        message = f"`{callee.name}` needs " + ", ".join(f"`{name}`" for name in missing)
        advice = f"write `{callee.name}({missing[0]} = …)`"
        labels = [(callee.place, "defined here")] if callee.place else []
        raise Fault("N111", message, called, help=advice, labels=labels)
    return bound


def _check_count(called: n.Node, operands: Sequence[n.Expr], callee: Callee) -> None:
    least, most = callee.arity
    if least <= len(operands) <= most:
        return
    few = len(operands) < least
    message = f"`{callee.name}` takes its arguments by name"
    if most or not callee.keywords:
        wanted = (
            str(most) if least == most else f"{least} to {most}" if least else f"at most {most}"
        )
        message = f"`{callee.name}` takes {wanted} argument{'s' * (most != 1)}, not {len(operands)}"
    at = called if few else operands[most]
    raise Fault("N111" if few else "N110", message, at, help=callee.usage)


def _check_name(name: n.Ident, bound: Bound, callee: Callee) -> None:
    if name.text not in callee.keywords:
        advice = did_you_mean(name.text, callee.keywords) or callee.usage
        message = f"`{callee.name}` has no argument `{name.text}`"
        raise Fault("N110", message, name, help=advice)
    if name.text in bound.keywords:
        raise Fault("N111", f"`{name.text}` is given twice", name)


def of_use(
    callee: Definition, use: Placed[n.Use], values: Values, report: Report
) -> dict[str, Scalar | None]:
    """The value of every hyper-parameter that a use gives; None where it is not known yet.

    Args:
        callee: What is used.
        use: The use.
        values: The adapter's own hyper-parameters.
        report: Takes N110, N111, T204 and the faults of expressions.
    """
    found: dict[str, Scalar | None] = {}
    faults = report.faults(use.source)
    written = {p.name.text: p.type.text for p in callee.node.parameters}
    with faults:
        bound = bind(use.node.method, use.node.arguments, callee_of(callee))
        for name, expr in bound.keywords.items():
            found[name] = None
            with suppress(Unknown), faults:
                found[name] = constant(written[name], expr, values)
    return found


def of_caller(
    callee: Definition, given: Mapping[str, Scalar], report: Report
) -> dict[str, Scalar | None]:
    """The values that a caller gives: numbers, or text as on a command line.

    Reports N110, N111 and T204.
    """
    found: dict[str, Scalar | None] = {}
    for parameter in callee.node.parameters:
        name, kind = parameter.name.text, parameter.type.text
        if name in given:
            found[name] = fitted(kind, given[name])
            if found[name] is None:
                value = given[name]
                shown = f'"{value}"' if isinstance(value, str) else str(value)
                message = f"`{name}` is {in_words(kind)}, and {shown} is not"
                report.error("T204", message, callee.unit.place(parameter))
        elif parameter.default is None:
            message = f"`{callee.name}` needs a value for `{name}`"
            place, advice = callee.unit.place(parameter), f"give it: `--set {name}=…`"
            report.error("N111", message, place, help=advice)
    for name in given:
        if name not in callee.kinds:
            advice = did_you_mean(name, callee.kinds) or callee_of(callee).usage
            message = f"`{callee.name}` has no hyper-parameter `{name}`"
            report.error("N110", message, None, help=advice)
    return found


def with_defaults(
    definition: Definition, given: Values, report: Report
) -> dict[str, Scalar | None]:
    """Every hyper-parameter's value: what is given, else its default.

    Args:
        definition: A method or adapter.
        given: Values by name; None for one that is given but not known yet.
        report: Takes what is wrong with the defaults, and N101, a name that is declared twice.

    Returns:
        A value for each; None for one that must be given, or that depends on such a one.
    """
    values: dict[str, Scalar | None] = {}
    place = definition.unit.place
    for parameter in definition.node.parameters:
        name = parameter.name.text
        if name in values:
            first = next(p.name for p in definition.node.parameters if p.name.text == name)
            message, labels = f"`{name}` is declared twice", [(place(first), "first here")]
            report.error("N101", message, place(parameter.name), labels=labels)
            continue
        value = given.get(name)
        if name not in given and parameter.default is not None:
            with suppress(Unknown), report.faults(definition.unit.source):
                value = constant(parameter.type.text, parameter.default, values)
        values[name] = value
    return values


def known(values: Values) -> dict[str, Scalar]:
    """The values that are known."""
    return {name: value for name, value in values.items() if value is not None}


def hyper_parameters(definition: Definition, values: Values) -> tuple[HyperParameter, ...]:
    """The hyper-parameters of a method or adapter, with these values as defaults."""
    return tuple(
        HyperParameter(
            name=p.name.text,
            kind=cast(
                "Literal['int', 'float', 'bool', 'str', 'fn']", definition.kinds[p.name.text]
            ),
            default=values.get(p.name.text) if p.default is not None else None,
            span=offsets(p),
        )
        for p in definition.node.parameters
    )
