"""Arguments: the value of every hyper-parameter of a method or adapter."""

from collections.abc import Mapping, Sequence

from peftlang.diagnostics import Source, did_you_mean
from peftlang.ir.expr import Scalar
from peftlang.lower.report import Place, Report
from peftlang.lower.units import Definition
from peftlang.lower.values import Unknown, Values, constant, fitted, wanted
from peftlang.syntax import nodes as n


def with_defaults(
    definition: Definition, given: Mapping[str, Scalar | None], report: Report
) -> dict[str, Scalar | None]:
    """Every hyper-parameter's value: what is given, else its default.

    Args:
        definition: A method or adapter.
        given: Values by name; None for one that is given but not known yet.
        report: Takes what is wrong with the defaults.

    Returns:
        A value for each; None for one that must be given, or that depends on such a one.
    """
    values: dict[str, Scalar | None] = {}
    source = definition.unit.source
    for parameter in definition.node.parameters:
        name, default = parameter.name.text, parameter.default
        if name in values:
            continue
        found: Scalar | None = None
        if name in given:
            found = given[name]
        elif default is not None:
            try:
                found = constant(parameter.type.text, default, values, source, report)
            except Unknown:
                found = None
        values[name] = found
    return values


def check_parameters(definition: Definition, report: Report) -> None:
    """Report hyper-parameters that are declared twice (N101)."""
    seen: dict[str, Place] = {}
    for parameter in definition.node.parameters:
        name, place = parameter.name.text, definition.unit.place(parameter.name)
        if name in seen:
            report.error("N101", f"`{name}` is declared twice", place,
                         labels=[(seen[name], "first here")])  # fmt: skip
        seen.setdefault(name, place)


def of_use(
    definition: Definition, use: n.Use, values: Values, source: Source, report: Report
) -> dict[str, Scalar | None]:
    """The values that a use gives by place and by name.

    Args:
        definition: What is used.
        use: The use.
        values: The adapter's own hyper-parameters.
        source: The text of the use.
        report: Takes what is wrong: N110, N111, T204 and the faults of expressions.
    """
    parameters = {p.name.text: p for p in definition.node.parameters}
    order = list(parameters)
    found: dict[str, Scalar | None] = {}
    for place, argument in enumerate(use.arguments):
        name = _name(definition, argument, place, order, source, report)
        if name is None:
            continue
        if name in found:
            report.error("N111", f"`{name}` is given twice", Place(source, argument.span))
            continue
        try:
            kind = parameters[name].type.text
            found[name] = constant(kind, argument.value, values, source, report)
        except Unknown:
            found[name] = None
    missing = [p.name.text for p in definition.node.parameters
               if p.default is None and p.name.text not in found]  # fmt: skip
    if missing and not report.failed:
        names = ", ".join(f"`{name}`" for name in missing)
        report.error("N111", f"`{use.method.text}` needs {names}", Place(source, use.method.span),
                     help=f"write `{use.method.text}({missing[0]} = …)`",
                     labels=[(definition.place, "defined here")])  # fmt: skip
    return found


def _name(
    definition: Definition, argument: n.Argument, place: int, order: Sequence[str],
    source: Source, report: Report,
) -> str | None:  # fmt: skip
    if argument.name is None:
        if place < len(order):
            return order[place]
        report.error(
            "N110",
            f"`{definition.name}` takes {len(order)} arguments",
            Place(source, argument.span),
        )
        return None
    name = argument.name.text
    if name in order:
        return name
    report.error(
        "N110", f"`{definition.name}` has no argument `{name}`",
        Place(source, argument.name.span), help=_takes(name, definition),
    )  # fmt: skip
    return None


def of_caller(
    definition: Definition, args: Mapping[str, Scalar], report: Report
) -> dict[str, Scalar | None]:
    """The values that a caller gives: numbers, or text as on a command line."""
    kinds = {p.name.text: p.type.text for p in definition.node.parameters}
    found: dict[str, Scalar | None] = {}
    for name, value in args.items():
        if name not in kinds:
            report.error("N110", f"`{definition.name}` has no hyper-parameter `{name}`", None,
                         help=_takes(name, definition))  # fmt: skip
            continue
        found[name] = fitted(kinds[name], value)
        if found[name] is None:
            shown = f'"{value}"' if isinstance(value, str) else str(value)
            report.error("T204", f"`{name}` is {wanted(kinds[name])}, and {shown} is not",
                         definition.unit.place(_parameter(definition, name)))  # fmt: skip
    for parameter in definition.node.parameters:
        if parameter.default is None and parameter.name.text not in args:
            name = parameter.name.text
            report.error("N111", f"`{definition.name}` needs a value for `{name}`",
                         definition.unit.place(parameter),
                         help=f"give it: `--set {name}=…`")  # fmt: skip
    return found


def _parameter(definition: Definition, name: str) -> n.HyperParameter:
    return next(p for p in definition.node.parameters if p.name.text == name)


def _takes(name: str, definition: Definition) -> str:
    names = [p.name.text for p in definition.node.parameters]
    shown = ", ".join(f"`{known}`" for known in names) or "none"
    return did_you_mean(name, names) or f"it has {shown}"
