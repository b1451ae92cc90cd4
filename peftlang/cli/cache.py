"""The command `cache`: what peftlang keeps in the user's cache folder."""

from typing import Annotated

import typer

from peftlang import keeping
from peftlang.cli.options import Json
from peftlang.cli.output import console, print_json

WHAT = {
    "surveys": "positions of models, by class, config, shapes and versions",
    "verify": "results of `verify` that hold, by spec, options and versions",
}


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="cache",
        epilog="Examples:  peftlang cache  ·  peftlang cache --clear",
    )(cache)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything that is kept.")] = False,
    json: Json = False,
) -> None:
    """Show what is kept so that it need not be found again, or clear it.

    It is safe to clear at any time. The folder is `$PEFTLANG_CACHE`, or `peftlang` in the user's
    cache folder.
    """
    found = {}
    for kind in keeping.KINDS:
        files = list(keeping.entries(kind))
        found[kind] = {"entries": len(files), "bytes": sum(f.stat().st_size for f in files)}
        for file in files if clear else ():
            keeping.forget(kind, file.name)
    if json:
        print_json({"folder": str(keeping.folder()), "cleared": clear, "kinds": found})
        return
    out = console()
    out.print(f"{keeping.folder()}{': cleared' if clear else ''}", highlight=False)
    for kind, sizes in found.items():
        size = f"{sizes['entries']} kept, {sizes['bytes'] / 1e6:.1f} MB"
        out.print(f"  {kind:<8} {size:<20} {WHAT[kind]}", highlight=False)
