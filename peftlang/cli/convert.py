"""`peftlang convert`: adapters of Hugging Face PEFT, read and written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peftlang.cli.options import Json, Model
from peftlang.cli.output import console, print_json, print_text, table, working
from peftlang.cli.plain import write_plain
from peftlang.diagnostics import PeftError

if TYPE_CHECKING:
    from torch import nn


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="convert",
        epilog="Examples:  peftlang convert hf-folder -m ./base -o ours  ·  "
        "peftlang convert ours -m ./base -o hf-folder  ·  "
        "peftlang convert ours -m ./base -o hf-folder --as-lora 16  ·  "
        "peftlang convert hf-folder -m ./base -o plain --merged",
    )(convert_command)


def convert_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A saved adapter, of PEFT or of peftlang.")
    ],
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The folder to write.")
    ],
    merged: Annotated[
        bool, typer.Option("--merged", help="Write a plain model with the adapter folded in.")
    ] = False,
    as_lora: Annotated[
        int | None,
        typer.Option(
            "--as-lora",
            metavar="RANK",
            min=1,
            help="Write a LoRA for PEFT: the change of each weight, cut to this rank.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read an adapter of Hugging Face PEFT, or write one that PEFT loads.

    A folder with adapter_config.json becomes one of ours: a spec that you can read and edit, and
    the tensors. One of ours becomes a folder for PeftModel.from_pretrained; which method it is,
    is found from its mathematics. Tensors are carried over bit for bit. What PEFT has no method
    for is refused, with the reason; --merged and --as-lora (which states its error for each
    module) export it all the same. PEFT need not be installed.
    """
    if merged and as_lora is not None:
        raise PeftError(
            "`--merged` and `--as-lora` are two ways out", code="C702", help="choose one"
        )
    with working(f"loading {model}"):
        from peftlang import interop
        from peftlang.models import load_model

        base = load_model(model)
    with working(f"reading {folder}"):
        from_hf = interop.is_hf_folder(folder)
        adapted = _read(base, folder, from_hf=from_hf)
    with working(f"writing {output}"):
        facts = _write(adapted, output, merged=merged, as_lora=as_lora, from_hf=from_hf)
    if json:
        print_json({"written": str(output), **facts})
        return
    if facts.get("modules"):
        rows = [
            (m["path"], m["rank"], f"{m['error']:.2e}", f"{m['size']:.2e}")
            for m in facts["modules"]
        ]
        columns = ["module", "rank", "error", "change"]
        console().print(table(columns, rows, right="rank error change"))
        print_text("error: what was cut, relative to the change; change: relative to the weight")
    print_text(f"wrote {output}: {facts['kind']}")


def _read(base: "nn.Module", folder: Path, *, from_hf: bool) -> "nn.Module":
    from peftlang import interop, saving

    if from_hf:
        return interop.from_hf(base, folder)
    if folder.is_dir() and not (folder / "adapter.json").exists():
        raise PeftError(
            f"{folder} is no saved adapter",
            code="I901",
            help="it holds neither adapter_config.json (PEFT) nor adapter.json (peftlang)",
        )
    return saving.load(base, folder)


def _write(
    adapted: "nn.Module", output: Path, *, merged: bool, as_lora: int | None, from_hf: bool
) -> dict[str, Any]:
    from dataclasses import asdict

    from peftlang import interop, merging, saving

    if merged:
        write_plain(merging.merge(adapted), output)
        return {"kind": "a plain model"}
    if as_lora is not None:
        cuts = interop.to_hf_as_lora(adapted, output, as_lora)
        return {"kind": f"a LoRA of rank {as_lora} for PEFT", "modules": [asdict(c) for c in cuts]}
    if from_hf:
        saving.save(adapted, output)
        return {"kind": "an adapter of peftlang"}
    interop.to_hf(adapted, output)
    return {"kind": "an adapter of PEFT"}
