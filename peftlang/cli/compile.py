"""`peftlang compile`: adapt a model and write the adapter to a folder."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from peftlang.cli.describe import bytes_text, plan_facts
from peftlang.cli.options import At, Entry, Json, Model, Set, Spec, With, clauses, settings
from peftlang.cli.output import print_json, print_text, working
from peftlang.cli.specs import Request
from peftlang.diagnostics import PeftError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="compile",
        epilog="Examples:  peftlang compile lora --model tiny-llama -o out  ·  "
        "peftlang compile my.peft -m ./base -o out --set r=16 --at 'linear in layers[-4..]'  ·  "
        "peftlang compile lora -m tiny-gpt2 -o out --print-after insert --without simplify",
    )(compile_command)


def compile_command(
    spec: Spec,
    model: Model,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="The folder to write."),
    ],
    name: Entry = None,
    set_: Set = None,
    at: At = None,
    with_: With = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the adapter's tensors.")] = 0,
    print_before: Annotated[
        list[str] | None,
        typer.Option("--print-before", metavar="PASS", help="Print what a pass gets. Repeatable."),
    ] = None,
    print_after: Annotated[
        list[str] | None,
        typer.Option("--print-after", metavar="PASS", help="Print what it leaves. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="PASS", help="Leave out a pass that can be. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Place a spec on a model, run it once, and write the adapter, ready to be trained.

    OUT gets the spec with its arguments fixed (adapter.peft), the plan (plan.json), the
    tensors (adapter.safetensors) and the base's fingerprint (adapter.json). It is written
    beside its place and renamed, so that a failure leaves what was there.
    """
    request = Request(spec, name, settings(set_), at, clauses(with_))
    request.build()
    with working(f"loading {model}"):
        import peftlang
        from peftlang import pipeline, saving
        from peftlang.models import example_inputs, load_model

        pipeline.check_without(without or ())
        observe = _printer(
            print_before or [], print_after or [], sys.stderr if json else sys.stdout
        )
        base = load_model(model)
        counts = {key: value.numel() for key, value in base.named_parameters()}
    with working(f"compiling for {model}"):
        pipeline.compile(
            base,
            request.source,
            entry=name,
            at=at,
            overrides=request.overrides,
            args=request.args,
            init_seed=seed,
            observe=observe,
            without=without or (),
        )
        _run_once(base, example_inputs(base))
        saving.save(base, output)
    view = peftlang.adapters(base)["default"]
    item = max((p.element_size() for p in view.parameters().values()), default=4)
    facts = plan_facts(view.plan, counts, item)
    if json:
        print_json({"written": str(output), "model": model, **facts})
        return
    trainable = facts["trainable"]
    print_text(
        f"{view.plan.adapter} on {model}: {len(view.plan.sites)} sites, {trainable['total']:,} "
        f"trainable numbers ({trainable['share']:.3%}), {bytes_text(trainable['bytes'])}\n"
        f"wrote {output}"
    )


def _run_once(model: "nn.Module", inputs: dict[str, Any]) -> None:
    """The graph passes run when the model does; what they refuse is better heard now."""
    import torch

    with torch.no_grad():
        model(**inputs)


def _printer(before: list[str], after: list[str], out: TextIO) -> Callable[[str, str, Any], None]:
    """An observer that prints what the named passes get and leave.

    Raises:
        PeftError: C709, there is no such pass.
    """
    from peftlang.pipeline import PASSES

    for name in (*before, *after):
        if name not in PASSES:
            raise PeftError(
                f"there is no pass `{name}`",
                code="C709",
                help=did_you_mean(name, PASSES) or f"the passes are {', '.join(PASSES)}",
            )
    wanted = {("before", name) for name in before} | {("after", name) for name in after}

    def observe(when: str, step: str, subject: Any) -> None:
        if (when, step) in wanted:
            out.write(f"# {when} {step}\n{subject}\n\n")

    return observe
