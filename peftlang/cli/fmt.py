"""`peftlang fmt`: rewrite specs in their one layout."""

import difflib
from typing import Annotated

import typer

from peftlang.cli.files import replace_text, spec_sources
from peftlang.cli.output import print_diagnostics, print_text
from peftlang.diagnostics import Source


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="fmt",
        epilog="Examples:  peftlang fmt specs  ·  peftlang fmt --check my.peft  ·  "
        "cat my.peft | peftlang fmt -",
    )(fmt)


def fmt(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Files, folders (every .peft below), or - (stdin)."),
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if a file would change.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Change nothing; print what would change.")
    ] = False,
) -> None:
    """Rewrite specs in the one canonical layout. Comments are kept.

    A file that does not parse is reported and left as it is.
    """
    from peftlang.syntax import format_text, parse

    failed = changed = False
    for source in spec_sources(specs):
        problems = parse(source)[1]
        if problems:
            print_diagnostics(problems)
            failed = True
            continue
        changed |= _one(source, format_text(source.text), check=check, diff=diff)
    if failed or (changed and (check or diff)):
        raise typer.Exit(1)


def _one(source: Source, formatted: str, *, check: bool, diff: bool) -> bool:
    if source.path is None and not (check or diff):
        print_text(formatted)
        return False
    if formatted == source.text:
        return False
    if diff:
        print_text(_difference(source.name, source.text, formatted))
        return True
    if not check and source.path is not None:
        replace_text(source.path, formatted)
    typer.echo(f"{'would reformat' if check else 'reformatted'} {source.name}", err=True)
    return True


def _difference(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (as it is)", f"{name} (formatted)", lineterm=""
    )
    return "\n".join(lines)
