"""What happens around a call from plain Python: inputs come in, penalties and lengths go out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from peftlang.runtime.conditions import check_rows, checked
from peftlang.runtime.penalties import with_penalties
from peftlang.runtime.prompts import lengthened
from peftlang.runtime.rooms import roomed
from peftlang.runtime.tokens import placed

if TYPE_CHECKING:
    from peftlang.runtime.adapted import Adapted
    from peftlang.runtime.doors import Door


@dataclass
class Call:
    """A call on its way through a door.

    Attributes:
        args: Positional arguments of the module's forward.
        kwargs: Its keyword arguments.
        after: What is done to the result, last added first.
        prompt: How many virtual tokens come before the tokens of the input, in this call.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    after: list[Callable[[Any], Any]] = field(default_factory=list)
    prompt: int = 0

    def finish(self, result: Any) -> Any:
        for step in reversed(self.after):
            result = step(result)
        return result


@contextmanager
def before_call(
    adapted: "Adapted", door: "Door", module: nn.Module, args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Iterator[Call]:  # fmt: skip
    """Prepare a call, and restore what it changed when it is done.

    Values that the spec declares as ``input`` are taken from the keyword arguments, wherever
    the call comes in. Soft prompts, token positions and penalties belong to the outermost call:
    inside it they are already in effect.
    """
    call = Call(args, dict(kwargs))
    with ExitStack() as stack:
        stack.enter_context(adapted.supplied(_inputs_among(adapted, call.kwargs)))
        if not adapted.inside:
            check_rows(adapted.inputs, (*call.args, *call.kwargs.values()))
            stack.enter_context(lengthened(adapted, door, module, call))
            stack.enter_context(roomed(adapted, door, call))
            stack.enter_context(placed(adapted, door, module, call))
            with_penalties(adapted, door, module, call)
            stack.callback(adapted.streams.clear)
        yield call


def _inputs_among(adapted: "Adapted", kwargs: dict[str, Any]) -> dict[str, Any]:
    declared = adapted.declared_inputs()
    given = {name: kwargs.pop(name) for name in list(kwargs) if name in declared}
    return checked(adapted, given)
