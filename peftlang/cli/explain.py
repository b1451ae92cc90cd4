"""`peftlang explain`: what a spec is, and what it does to a model."""

from typing import Annotated, Any

import typer

from peftlang.cli.describe import (
    DIMENSIONS,
    adapter_facts,
    bytes_text,
    plan_facts,
    shape_text,
)
from peftlang.cli.options import (
    At,
    Entry,
    Json,
    OptionalModel,
    Set,
    With,
    clauses,
    settings,
)
from peftlang.cli.output import console, print_json, print_text, table, working
from peftlang.cli.regions import region_text, why_text
from peftlang.cli.specs import Request
from peftlang.diagnostics import CODES
from peftlang.diagnostics import explain as explain_code
from peftlang.ir.method import Adapter


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        name="explain",
        epilog="Examples:  peftlang explain lora  ·  "
        "peftlang explain my.peft --model tiny-llama --set r=4  ·  peftlang explain T203",
    )(explain)


def explain(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC|CODE", help="A .peft file, a method of the library, or an error's code."
        ),
    ],
    model: OptionalModel = None,
    name: Entry = None,
    set_: Set = None,
    at: At = None,
    with_: With = None,
    json: Json = False,
) -> None:
    """Print a method's five dimensions; with a model, its sites, regions, parameters and cost.

    The cost is that of the expressions as they are written, for one token: an upper bound.
    Given the code of a diagnostic, print what it means, with an example and its mended form.
    """
    if spec in CODES:
        print_text(explain_code(spec))
        return
    adapter = Request(spec, name, settings(set_), at, clauses(with_)).build()
    facts = adapter_facts(adapter)
    if model is not None:
        facts["on"] = {"model": model, **_on_model(adapter, model)}
    if json:
        print_json(facts)
        return
    _print_adapter(facts)
    if model is not None:
        _print_on_model(facts["on"])


def _on_model(adapter: Adapter, name: str) -> dict[str, Any]:
    with working(f"capturing {name}"):
        from peftlang.models import load_model
        from peftlang.pipeline import plan, survey

        model = load_model(name, meta=True)
        made = plan(adapter, model, survey(model))
    parameters = dict(model.named_parameters())
    sizes = {key: value.numel() for key, value in parameters.items()}
    item = max((p.element_size() for p in parameters.values() if p.is_floating_point()), default=4)
    return plan_facts(made, sizes, item)


def _print_adapter(facts: dict[str, Any]) -> None:
    single = len(facts["uses"]) == 1 and facts["uses"][0]["method"] == facts["adapter"]
    if not single:
        _print_title(facts["adapter"], facts["doc"], facts["arguments"])
    for use in facts["uses"]:
        _print_title(use["label"], use["doc"], use["arguments"])
        for dimension in DIMENSIONS:
            lines = use["dimensions"][dimension].splitlines() or [""]
            print_text(f"  {dimension:<12} " + ("\n" + " " * 15).join(lines))
        for heading in ("trains", "keeps", "inputs", "promises"):
            if use[heading]:
                print_text(f"  {heading:<12} {', '.join(use[heading])}")
        print_text("")
    if facts["shares"]:
        print_text(f"one and the same: {'; '.join(facts['shares'])}\n")
    if facts["train"]:
        print_text(f"unfrozen in the base: {', '.join(facts['train'])}\n")


def _print_title(name: str, doc: str, arguments: dict[str, Any]) -> None:
    values = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    print_text(f"{name}({values})" if values else name)
    first = doc.strip().split("\n\n")[0].replace("\n", " ").strip()
    if first:
        print_text(f"  {first}")
    print_text("")


def _print_on_model(on: dict[str, Any]) -> None:
    print_text(f"on {on['model']}\n")
    cells = [
        [*(row[key] or "" for key in ("use", "role", "stack", "sites", "layers")), shape]
        for row in on["sites"]
        for shape in (shape_text(row["dims"]),)
    ]
    console().print(
        table(["use", "position", "stack", "sites", "layers", "sizes"], cells, right="sites")
    )
    _print_regions(on["regions"])
    trainable, token = on["trainable"], on["per_token"]
    print_text("")
    print_text(
        f"  trainable    {trainable['total']:,} numbers, {bytes_text(trainable['bytes'])}, "
        f"{trainable['share']:.3%} of the base's {trainable['of']:,}"
    )
    print_text(
        f"  per token    {token['flops']:,} FLOPs, "
        f"{bytes_text(token['activation_bytes'])} of activations"
    )
    if on["per_pass"]["flops"]:
        print_text(f"  per pass     {on['per_pass']['flops']:,} FLOPs on weights")


def _print_regions(rows: list[dict[str, Any]]) -> None:
    """Where each use runs, and why not in less."""
    if not rows:
        return
    print_text("")
    cells = [
        [row["use"], row["position"], row["sites"], region_text(row), why_text(row)] for row in rows
    ]
    columns = ["use", "position", "sites", "runs at", "why in no less"]
    console().print(table(columns, cells, right="sites"))
