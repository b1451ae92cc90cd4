"""The table of the standard library: what each spec says of itself, one row for each method."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftlang.cli.describe import use_facts
from peftlang.ir.dims import Dim, product
from peftlang.ir.method import Adapter, Use
from peftlang.ir.positions import POSITIONS
from peftlang.ir.proofs import mergeable
from peftlang.lower import build, load

SPECS = Path(__file__).resolve().parent.parent / "specs"

COLUMNS = (
    "method and source",
    "the change",
    "function, and composition below it",
    "position",
    "form",
    "sharing",
    "parameters per site",
    "mergeable",
)

NONE = ""

JOINED = re.compile(r"\s+(?=<-)|(\bwith|\band|so that|:|<-)\s{2,}")
"""Spaces within an equation that set nothing apart: before an arrow, after a joining word."""

NAME = r"[A-Z][\w'-]+(?: [A-Z][\w'-]+)*"
AUTHORS = re.compile(rf"({NAME}(?:, {NAME})*(?: et al\.| and {NAME})?),? (\d{{4}})")


def library_table() -> str:
    """The table of every spec in the library."""
    rows = [row for path in sorted(SPECS.glob("*.peft")) for row in rows_of(path)]
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows_of(path: Path) -> Iterator[tuple[str, ...]]:
    """The rows of one spec: its own, and one for each use where it has several parts."""
    adapter = build(load(path))
    name = _lines(f"[`{path.stem}`]({path.name})", source(adapter.doc))
    parts = [*adapter.uses, *adapter.train]
    single = adapter.uses[0] if len(adapter.uses) == len(parts) == 1 else None
    if single is not None:
        yield (name, _change(adapter.doc), *_dimensions(single))
        return
    shown = _change(adapter.doc)
    if not adapter.uses:
        yield (name, shown, NONE, trained(adapter), *(NONE for _ in COLUMNS[4:-1]), "yes")
        return
    all_merge = all(_merges(use) for use in adapter.uses)
    yield (name, shown, *(NONE for _ in COLUMNS[2:-1]), "yes" if all_merge else "no")
    for use in adapter.uses:
        yield (f"… `{use.label}`", _change(use.method.doc), *_dimensions(use))
    for tie in adapter.ties:
        yield ("… and shares", *(NONE,) * 4, f"`{tie.tensor}` across {_code(tie.uses)}", NONE, "")
    if adapter.train:
        yield ("… and trains", *(NONE,) * 2, trained(adapter), *(NONE,) * 3, "yes")


def trained(adapter: Adapter) -> str:
    """Which parameters of the base an adapter trains."""
    return ", ".join(f"`{selector}`" for selector in adapter.train)


def source(doc: str) -> str:
    """Authors and year, as the documentation first names them: ``Hu et al. 2022``."""
    prose = (block for block in doc.split("\n\n") if not block.startswith("    "))
    found = AUTHORS.search(" ".join(" ".join(prose).split()))
    return " ".join(found.groups()) if found else ""


def equation(doc: str) -> list[str]:
    """The first indented block of a documentation, cut where its parts stand apart."""
    blocks = (block for block in doc.split("\n\n") if block.startswith("    "))
    lines = [
        JOINED.sub(lambda m: f"{m[1] or ''} ", line.strip())
        for line in next(blocks, "").splitlines()
    ]
    return [part.rstrip(",") for line in lines for part in re.split(r"\s{3,}", line)]


def _change(doc: str) -> str:
    return _code(equation(doc)) or NONE


def _dimensions(use: Use) -> tuple[str, ...]:
    facts = use_facts(use)["dimensions"]
    function = [facts["function"]] if use.method.function else []
    return (
        _code([*function, *facts["composition"].splitlines()]),
        _code(str(target) for target in use.selector.targets),
        facts["insertion"],
        _code(facts["sharing"].split(", ")) if facts["sharing"] != "none" else "none",
        parameters(use),
        "yes" if _merges(use) else "no",
    )


def parameters(use: Use) -> str:
    """How many numbers train at each site, and how many are shared across more of them."""
    counts: dict[str | None, Dim] = defaultdict(lambda: Dim.of(0))
    for tensor in use.method.tensors:
        if tensor.trainable:
            counts[tensor.across] += product(tensor.dims)
    if use.method.insertion == "sequential":
        counts.update({k: n.substitute({"d_x": Dim.of("d_h")}) for k, n in counts.items()})
    alone = sorted(counts.items(), key=lambda item: item[0] or "")
    return _lines(*(f"`{n}`" + (f" across {across}" if across else "") for across, n in alone))


def _merges(use: Use) -> bool:
    """Whether the change is proved, or promised, to be one of weights at all its positions."""
    roles = [target.text for target in use.selector.targets if target.text in POSITIONS]
    promised = any(contract.property == "mergeable" for contract in use.method.contracts)
    return promised or all(mergeable(use.method, role).verdict == "proved" for role in roles)


def _code(parts: Sequence[str] | Iterator[str]) -> str:
    return _lines(*(f"`{part}`".replace("|", "\\|") for part in parts))


def _lines(*parts: str) -> str:
    return "<br>".join(filter(None, parts))
