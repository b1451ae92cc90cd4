"""The exception that carries diagnostics to a caller."""

from collections.abc import Iterable
from typing import Self

from peftlang.diagnostics.diagnostic import Diagnostic
from peftlang.diagnostics.render import render


class PeftError(Exception):
    """Base of every error that this project shows to a user.

    Args:
        message: one sentence, no full stop, in the user's terms.
        code: a key of `CODES`.
        help: the edit or command that mends it.
        diagnostics: the places, when the error is about a text; `str()` then renders these.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        help: str | None = None,
        diagnostics: Iterable[Diagnostic] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.help = help
        self.diagnostics = tuple(diagnostics)

    @classmethod
    def of(cls, diagnostics: Iterable[Diagnostic]) -> Self:
        """The error that carries these diagnostics; its message is the first error's.

        Raises ValueError when there are none.
        """
        found = tuple(diagnostics)
        if not found:
            raise ValueError("an error needs at least one diagnostic")
        first = next((d for d in found if d.severity == "error"), found[0])
        return cls(first.message, code=first.code, help=first.help, diagnostics=found)

    def __str__(self) -> str:
        shown = self.diagnostics or (Diagnostic(self.code, self.message, help=self.help),)
        return render(shown)

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own pickling calls the class with positional arguments alone.
        return (_rebuild, (type(self), self.message, self.code, self.help, self.diagnostics))


def _rebuild(
    cls: type[PeftError],
    message: str,
    code: str,
    advice: str | None,
    diagnostics: tuple[Diagnostic, ...],
) -> PeftError:
    error = cls.__new__(cls)
    PeftError.__init__(error, message, code=code, help=advice, diagnostics=diagnostics)
    return error
