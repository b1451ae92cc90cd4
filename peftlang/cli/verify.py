"""`peftlang verify`: what a spec promises, decided; and what it should equal, compared."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from peftlang.cli.options import At, Json, Set, Spec, With, clauses, settings
from peftlang.cli.output import console, error_console, print_json, print_text, table
from peftlang.cli.specs import Request

if TYPE_CHECKING:
    from rich.status import Status

    from peftlang.verifying import Report, Row


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
    json: Json = False,
) -> None:
    """Decide what a spec promises, and try it; with a reference, compare outputs and gradients.

    Sizes, number types, seeds, roles and the hyper-parameters that `--set` leaves free vary.
    What fails is shrunk, and printed with a script that shows it again.
    """
    request = Request(spec, name, settings(set_), at, clauses(with_))
    with error_console().status("starting") as status:
        from peftlang.verifying import verify as run

        report = run(
            request.source, against=against, model=model, entry=name, at=at,
            overrides=request.overrides, args=request.args, examples=examples, seed=seed,
            observe=_Progress(status),
        )  # fmt: skip
    if json:
        print_json(report.facts())
    else:
        _print(report)
    if not report.holds:
        raise typer.Exit(1)


class _Progress:
    """Says on a terminal what is being tried, and elsewhere nothing."""

    def __init__(self, status: "Status") -> None:
        self._status, self._said = status, 0.0

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now - self._said > 0.1:
            self._status.update(f"{what}: {count}")
            self._said = now


def _print(report: "Report") -> None:
    from peftlang.verifying.writing import written

    several = len({row.use for row in report.rows if row.use}) > 1
    rows = [_cells(row, several=several) for row in report.rows]
    console().print(
        table(["property", "decided", "examples", "worst error", "verdict"], rows,
              right="examples")
    )  # fmt: skip
    if report.generic_only:
        print_text("\nno contract and no reference: only what every method should keep was checked")
    for row in report.rows:
        if not row.holds:
            print_text("\n" + written(row, report))
        elif row.how == "none":
            print_text(f"\n{row.property}: {row.reason}")
    kept = sum(row.holds for row in report.rows)
    print_text(
        f"\n{report.subject.name}: {kept} of {len(report.rows)} hold, in {report.seconds:.1f} s"
    )


def _cells(row: "Row", *, several: bool) -> list[str]:
    what = f"{row.use}: {row.property}" if several and row.use else row.property
    worst = "exact" if row.worst == 0 else f"{row.worst:.1e}"
    verdict = "-" if row.how == "none" else "holds" if row.holds else "FAILS"
    shown = worst if row.holds and row.examples else ""
    return [what, HOW[row.how], str(row.examples), shown, verdict]


HOW = {"both": "proved, run", "run": "run", "proved": "proved", "refuted": "refuted",
       "none": "not tried"}  # fmt: skip
