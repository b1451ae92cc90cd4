"""`peftlang sites`: the positions of a model."""

from typing import Annotated, Any

import typer

from peftlang.cli.describe import heads_text, site_rows
from peftlang.cli.options import Json, Model
from peftlang.cli.output import console, print_json, table, working


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="sites",
        epilog="Examples:  peftlang sites --model tiny-llama  ·  "
        "peftlang sites --model ./my-model --all",
    )(sites)


def sites(
    model: Model,
    every: Annotated[bool, typer.Option("--all", help="One row for each site.")] = False,
    json: Json = False,
) -> None:
    """Print the positions that a model has: roles, how many sites, where, and their sizes.

    Roles are found in the model's captured graph; its weights are not needed, and not loaded.
    """
    with working(f"capturing {model}"):
        from peftlang.models import load_model
        from peftlang.pipeline import survey

        found = survey(load_model(model, meta=True)).sites
    if json:
        print_json({"model": model, "sites": [site.model_dump(mode="json") for site in found]})
        return
    if every:
        cells: list[list[Any]] = [
            [s.role, s.path, s.layer if s.layer is not None else "", *_sizes(s.dims)] for s in found
        ]
        console().print(table(["role", "path", "layer", *_SIZES], cells, right="layer d_x d_h"))
        return
    rows = site_rows(found)
    cells = [
        [row["role"], row["stack"] or "", row["sites"], row["layers"], *_sizes(row["dims"])]
        for row in rows
    ]
    console().print(
        table(["role", "stack", "sites", "layers", *_SIZES], cells, right="sites d_x d_h")
    )


_SIZES = ("d_x", "d_h", "heads")


def _sizes(dims: dict[str, int]) -> list[object]:
    return [dims.get("d_x", ""), dims.get("d_h", ""), heads_text(dims)]
