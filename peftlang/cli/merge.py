"""`peftlang merge`: a saved adapter and its base become a plain model."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftlang.cli.options import Json
from peftlang.cli.output import print_json, print_text, working
from peftlang.diagnostics import PeftError

if TYPE_CHECKING:
    from torch import nn


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
    _check_free(output)
    with working(f"loading {model or 'the base'}"):
        from peftlang import merging, pipeline
        from peftlang.models import load_model

        base = load_model(model or pipeline.base_of(folder))
        adapted = pipeline.load(base, folder)
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


def _check_free(output: Path) -> None:
    if output.exists():
        raise PeftError(f"{output} is there already", code="D604", help="name a new folder")


def write_plain(model: "nn.Module", output: Path) -> None:
    """Write a plain model's folder beside its place, then rename it.

    Raises:
        PeftError: D604, it cannot be written, or something is there.
    """
    _check_free(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        try:
            _save(model, temporary)
            temporary.chmod(0o755)
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PeftError(
            f"{output} cannot be written: {error}",
            code="D604",
            help="free some space or name another folder",
        ) from error


def _save(model: Any, folder: Path) -> None:
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return
    from safetensors.torch import save_model

    save_model(model, str(folder / "model.safetensors"))
