"""Options that several commands share, and how their text becomes values."""

import re
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import typer

from peftlang.diagnostics import PeftError, did_you_mean

Value: TypeAlias = int | float | bool | str

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_CLAUSES = ("function", "insertion", "composition", "sharing", "penalty", "rate", "ensure")

Spec = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="A .peft file, or the name of a method of the library."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="ID|DIR|PRESET",
        help="A hub id, a local folder, or a preset such as tiny-llama (no network needed).",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="ID|DIR|PRESET",
        help="Also show what the spec does to this model.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="NAME=VALUE", help="Fix a hyper-parameter: --set r=16. Repeatable."
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="SELECTOR", help="Replace the position: --at 'attn.q in layers[-4..]'."
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="CLAUSE=VALUE",
        help="Replace another clause: --with insertion=sequential. Repeatable.",
    ),
]
Entry = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Which adapter or method, where SPEC has several."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]


def settings(given: Sequence[str] | None) -> dict[str, Value]:
    """Read `--set NAME=VALUE` options.

    Args:
        given: The texts after each `--set`.

    Returns:
        Each name's value: an integer, float or boolean where the text is one, else the text.

    Raises:
        PeftError: C702, a text is not NAME=VALUE, or a name is given twice.
    """
    values: dict[str, Value] = {}
    for text in given or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value or not _NAME.match(name):
            message = f"`--set {text}` is not NAME=VALUE"
            raise PeftError(message, code="C702", help="write it as in `--set r=16`")
        if name in values:
            raise PeftError(f"`{name}` is set twice", code="C702", help="keep one `--set`")
        values[name] = _value(value)
    return values


def clauses(given: Sequence[str] | None) -> tuple[str, ...]:
    """Read `--with CLAUSE=VALUE` options as clauses of the language.

    Args:
        given: The texts after each `--with`.

    Returns:
        One clause's text for each, such as ``insertion sequential``.

    Raises:
        PeftError: C705, a text is not CLAUSE=VALUE with a clause that can be replaced.
    """
    found: list[str] = []
    for text in given or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not value or name not in _CLAUSES:
            raise PeftError(
                f"`--with {text}` is not CLAUSE=VALUE",
                code="C705",
                help=did_you_mean(name, _CLAUSES) or f"the clauses are {', '.join(_CLAUSES)}",
            )
        found.append(f"{name} {value}")
    return tuple(found)


def _value(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.match(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text.strip("\"'")
