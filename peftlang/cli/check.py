"""`peftlang check`: diagnostics, with no model at hand."""

from typing import Annotated

import typer

from peftlang.cli.files import spec_sources
from peftlang.cli.options import Json
from peftlang.cli.output import as_json, print_diagnostics, print_json, print_text


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="check",
        epilog="Examples:  peftlang check my.peft  ·  peftlang check specs --json",
    )(check)


def check(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Files, folders (every .peft below), or - (stdin)."),
    ],
    json: Json = False,
) -> None:
    """Report everything that is wrong in specs: names, shapes, clauses. No model is needed.

    Exits with 1 when there is an error in any of them.
    """
    from peftlang.lower import check as check_specs

    sources = list(spec_sources(specs))
    found = check_specs(sources)
    errors = sum(d.severity == "error" for d in found)
    if json:
        print_json({"specs": len(sources), "errors": errors, "diagnostics": [*map(as_json, found)]})
    else:
        print_diagnostics(found)
        if not errors:
            print_text(f"{len(sources)} spec{'s are' if len(sources) > 1 else ' is'} right")
    if errors:
        raise typer.Exit(1)
