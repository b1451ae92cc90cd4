"""`peftlang verify`: what a spec promises, decided; and what it should equal, compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftlang.cli import kept
from peftlang.cli.options import At, Json, Set, Spec, With, clauses, settings
from peftlang.cli.output import console, error_console, print_json, print_text, table
from peftlang.cli.specs import Request

if TYPE_CHECKING:
    from rich.progress import Progress

    from peftlang.verifying import Report

PATIENCE = 1.0
"""Seconds after which a terminal shows what is being tried."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="verify",
        epilog="Examples:  peftlang verify lora  ·  "
        "peftlang verify my.peft --against my_ref.py  ·  "
        "peftlang verify prefix_gated --against prefix --set l=3",
    )(verify)


def verify(
    spec: Spec,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="REF",
            help="Also compare with a Python file (it is run), a spec, or hf:NAME.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ID|DIR|PRESET",
            help="Confirm on this model, or several; by default on the cheapest preset that fits.",
        ),
    ] = None,
    no_model: Annotated[
        bool,
        typer.Option(
            "--no-model",
            help="Try single sites alone; what a reference says of a whole model is still tried.",
        ),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--entry", "--name", metavar="NAME", help="Which adapter or method."),
    ] = None,
    set_: Set = None,
    at: At = None,
    with_: With = None,
    examples: Annotated[
        int, typer.Option("--examples", min=1, help="How many sites for each property.")
    ] = 40,
    seed: Annotated[int, typer.Option("--seed", help="Which sites are drawn.")] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Try again what held before and did not change.")
    ] = False,
    json: Json = False,
) -> None:
    """Decide what a spec promises, and try it; with a reference, compare outputs and gradients.

    Sizes, number types, seeds, roles and the hyper-parameters that `--set` leaves free vary.
    What fails is shrunk, and printed with a script that shows it again.
    """
    request = Request(spec, name, settings(set_), at, clauses(with_))
    options: dict[str, Any] = {
        "against": against,
        "model": model,
        "whole": not no_model,
        "entry": name,
        "at": at,
        "overrides": request.overrides,
        "args": request.args,
        "examples": examples,
        "seed": seed,
    }
    key = _key(request, options)
    found = None if fresh or key is None else kept.find(key)
    failures: list[str] = []
    if found is not None:
        found["kept"] = True
    else:
        with _progress(examples) as observe:
            from peftlang.verifying import verify as run

            report = run(request.source, observe=observe, **options)
        found = {**report.facts(), "kept": False}
        failures = _failures(report)
        if key is not None and report.holds:
            kept.keep(key, found)
    if json:
        print_json(found)
    else:
        _print(found, failures)
    if not found["holds"]:
        raise typer.Exit(1)


def _key(request: Request, options: dict[str, Any]) -> str | None:
    """The name under which the result is kept; None where it may depend on more."""
    specs, against, models = [request.source], options["against"], options["model"]
    if models:
        from peftlang.models import PRESETS

        if not set(models) <= set(PRESETS):
            return None
    if against is not None and against.endswith(".py"):
        return None
    if against is not None and ":" not in against:
        specs.append(against)
    return kept.key_of(specs, options)


@contextmanager
def _progress(examples: int) -> Iterator["_Progress"]:
    """What is being tried, shown on a terminal once that takes longer than a moment."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
    )
    drawn = Progress(*columns, console=error_console(), transient=True)
    observe = _Progress(drawn, examples)
    timer = Timer(PATIENCE, drawn.start)
    if drawn.console.is_terminal:
        timer.start()
    try:
        yield observe
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        if drawn.live.is_started:
            drawn.stop()


class _Progress:
    """One line for what is being tried now."""

    def __init__(self, drawn: "Progress", examples: int) -> None:
        self._drawn, self._examples = drawn, examples
        self._task = drawn.add_task("starting", total=None)
        self._said = ""

    def __call__(self, what: str, count: int) -> None:
        if what != self._said:
            self._said = what
            self._drawn.reset(self._task, total=self._examples if count else None)
        self._drawn.update(self._task, description=what, completed=count)


def _failures(report: "Report") -> list[str]:
    from peftlang.verifying.writing import written

    return [written(row, report) for row in report.rows if not row.holds]


def _print(found: dict[str, Any], failures: Sequence[str]) -> None:
    rows = found["properties"]
    several = len({row["use"] for row in rows if row["use"]}) > 1
    columns = ["property", "decided", "examples", "worst error", "verdict"]
    cells = [_cells(row, several=several) for row in rows]
    console().print(table(columns, cells, right="examples"))
    if found["generic_only"]:
        print_text("\nno contract and no reference: only what every method should keep was checked")
    for text in failures:
        print_text("\n" + text)
    for row in rows:
        if row["how"] == "none":
            print_text(f"\n{row['property']}: {row['reason']}")
    holding = sum(row["holds"] for row in rows)
    seconds = f"in {found['seconds']:.1f} s"
    when = "as before (`--fresh` tries again)" if found["kept"] else seconds
    print_text(f"\n{found['adapter']}: {holding} of {len(rows)} hold, {when}")


def _cells(row: dict[str, Any], *, several: bool) -> list[str]:
    what = f"{row['use']}: {row['property']}" if several and row["use"] else row["property"]
    decided = (HOLDS if row["holds"] else FAILS)[row["how"]]
    if row["how"] == "none":
        return [what, decided, "0", "", "-"]
    if not row["holds"]:
        return [what, decided, str(row["examples"]), "", "FAILS"]
    worst = "" if not row["examples"] else _error(row["worst_error"])
    return [what, decided, str(row["examples"]), worst, "holds"]


def _error(worst: float) -> str:
    return "exact" if worst == 0 else f"{worst:.1e}"


HOLDS = {"both": "proved, run", "run": "run", "proved": "proved", "none": "not tried"}
"""What decided a property that holds."""

FAILS = {"both": "refuted, run", "run": "run", "refuted": "refuted"}
"""What decided one that does not."""
