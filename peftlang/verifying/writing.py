"""A report's failures at length, for the eye."""

from peftlang.diagnostics import Diagnostic, render
from peftlang.ir.positions import POSITIONS
from peftlang.verifying.report import Report, Row
from peftlang.verifying.search import CounterExample
from peftlang.verifying.site_case import PlacedMethod, SiteCase, place, reads_bias


def written(row: Row, report: Report) -> str:
    """A failing row at length: why, where in the spec, the smallest counter-example, a script."""
    several = len({other.use for other in report.rows if other.use}) > 1
    whose = f" for {row.use}" if row.use and several else ""
    said = f"`{row.property}` does not hold{whose}"
    if row.reason and (row.failure is None or row.reason != row.wrong):
        said = f"`{row.property}` is refuted{whose}, because {row.reason}"
    source, span = (row.place.source, row.place.span) if row.place else (None, None)
    text = render([Diagnostic("V813", said, source, span)])
    if row.failure is None:
        return text
    lines = [*_where(row.failure, report), "", f"    {row.wrong}", "", "  again, with Python:", ""]
    script = report.script(row)
    return text + "\n" + "\n".join([*lines, *(f"    {line}" for line in script.splitlines())])


def _where(failure: CounterExample, report: Report) -> list[str]:
    """The smallest site or the model, in the sizes that matter."""
    if failure.case is None:
        return [f"  on the model {failure.model}"]
    case = failure.case
    placed = place(report.subject, case)
    sizes = {**placed.sizes_that_matter, **case.args}
    shown = ", ".join(f"{name} = {value}" for name, value in sizes.items())
    more = [f"{case.dtype}", f"seed {case.seed}", *_conditions(case, placed)]
    return [
        f"  at {case.role} of {case.use}" + (f" with {shown}" if shown else ""),
        f"  ({', '.join(more)})",
    ]


def _conditions(case: SiteCase, placed: PlacedMethod) -> list[str]:
    found = []
    if case.causal:
        found.append("no token sees a later one")
    if case.training:
        found.append("in training")
    if case.bias and not reads_bias(placed.method) and "b" in POSITIONS[case.role]:
        found.append("with a bias")
    return found
