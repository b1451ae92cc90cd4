"""`peftlang merge`: a saved adapter and its base become a plain model."""

from pathlib import Path
from typing import Annotated

import typer

from peftlang.cli.options import Json
from peftlang.cli.output import print_json, print_text, working
from peftlang.cli.plain import write_plain


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="merge",
        epilog="Example:  peftlang merge out -o merged",
    )(merge_command)


def merge_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A saved adapter.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The folder to write.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="ID|DIR|PRESET",
            help="The base; by default the one that the adapter was made on, by its name.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Fold a saved adapter into its base's weights, and write the plain model.

    Says for each site that cannot be folded, why not; nothing is written then.
    """
    with working(f"loading {model or 'the base'}"):
        from peftlang import merging, saving
        from peftlang.interop.folder import check_free
        from peftlang.models import load_model

        check_free(output)
        base = load_model(model or saving.base_of(folder))
        adapted = saving.load(base, folder)
    with working("folding"):
        refused = merging.why_not_mergeable(adapted)
        if not refused:
            merging.merge(adapted, keep=True)
    if refused:
        sites = [{"method": r.method, "site": r.site.id, "reason": r.reason} for r in refused]
        if json:
            print_json({"refused": sites})
        else:
            print_text("\n".join("{method} at {site}: {reason}".format(**site) for site in sites))
        raise merging.NotMergeable(refused)
    report = merging.last_merge(adapted)
    write_plain(adapted, output)
    worst = max(report.rounding.values(), default=0.0)
    if json:
        print_json({"written": str(output), "parameters": report.rounding})
        return
    print_text(
        f"{len(report.rounding)} parameters changed; the largest rounding error is {worst:.3g}\n"
        f"wrote {output}"
    )
