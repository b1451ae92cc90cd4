"""The application: its commands, and what any failure looks like from outside."""

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from peftlang.cli.output import error_console, print_error
from peftlang.diagnostics import PeftError

EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_BUG = 70

COMMANDS = ("check", "fmt", "compile", "explain", "sites", "merge", "verify", "convert", "cache")
"""In the order of `--help`; each is the module of this package that has its name."""


def _print_version(wanted: bool) -> None:
    if wanted:
        import peftlang

        typer.echo(f"peftlang {peftlang.__version__}")
        raise typer.Exit


def _callback(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show Python tracebacks. May stand anywhere.")
    ] = False,
) -> None:
    """Write a fine-tuning method as one line of mathematics, and compile it into a model.

    Exit codes: 0 good, 1 a spec or a contract is wrong, 2 usage, 70 a bug in peftlang.
    """


def application(first: str | None = None) -> typer.Typer:
    """The application.

    Args:
        first: The first argument. When it names a command, no other command is imported:
            `check` is run by editors at every pause, so its start-up counts.
    """
    app = typer.Typer(
        name="peftlang",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_callback)
    for name in (first,) if first in COMMANDS else COMMANDS:
        import_module(f"peftlang.cli.{name}").add_to(app)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; those of the process when None.

    Returns:
        The exit code: 0 good, 1 the spec or a contract is wrong, 2 usage, 70 a bug of ours.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [a for a in given if a != "--debug"]
    debug = arguments != given
    try:
        application(arguments[0] if arguments else None)(args=arguments)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else EXIT_WRONG
    except PeftError as error:
        print_error(error)
        if debug:
            traceback.print_exc()
        return EXIT_USAGE if _is_usage(error) else EXIT_WRONG
    except Exception as error:
        _report_bug(error, debug=debug)
        return EXIT_BUG
    return 0


def _is_usage(error: PeftError) -> bool:
    """The command line itself is wrong, or names a file that is not there or not usable."""
    return error.code.startswith("C") or error.code in {"D601", "I901", "R524"} | _REFERENCES


_REFERENCES = {f"V8{number:02}" for number in range(1, 11)} | {"V814"}
"""A reference that `--against` names and that cannot be used."""


def _report_bug(error: Exception, *, debug: bool) -> None:
    console = error_console()
    if debug:
        console.print(traceback.format_exc(), markup=False, highlight=False)
    first_line = (str(error).splitlines() or [""])[0]
    text = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    console.print(
        f"internal error: {text}\n"
        "This is a bug in peftlang, not in your spec. Please report it with the output of the\n"
        "same command and --debug.",
        markup=False,
        highlight=False,
    )
