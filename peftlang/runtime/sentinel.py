"""Whether what adapters do was done: the check behind each module's forward."""

from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.runtime import dispatch as modules
from peftlang.runtime.call import Call
from peftlang.runtime.dispatch import Dispatch


def check(call: Call, dispatch: Dispatch, module: nn.Module, ran: set[str]) -> None:
    """A module ran, and some of those within did not: that is right if nothing was missed.

    A layer that was dropped, an expert without tokens, a branch not taken are no misses. That a
    module is no longer in the model, or that its weights were used past its forward, is.

    Raises:
        PeftError: R501.
    """
    for child in dispatch.children:
        if child.path in ran:
            continue
        # A model may call what is inside of a module past that: its own check is for the rest.
        missing = [path for path in _within(call, child) if not _is_in(path, ran)]
        if not missing:
            continue
        relative = child.path.removeprefix(f"{dispatch.path}.") if dispatch.path else child.path
        try:
            found = module.get_submodule(relative)
        except AttributeError:
            continue
        there = modules.of(found)
        if there is None or there.calls is not dispatch.calls:
            raise replaced_module(child.path, type(found).__name__)
        for path in missing:
            if call.used & call.acting.anchored.get(path, set()):
                raise used_past(path)


def _within(call: Call, dispatch: Dispatch) -> list[str]:
    """The modules at which something is done: this one, and those inside of it."""
    inside = f"{dispatch.path}."
    return [p for p in call.acting.parts if p == dispatch.path or p.startswith(inside)]


def _is_in(path: str, modules: set[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in modules)


def replaced_module(path: str, kind: str) -> PeftError:
    """The error for a module that is another than the one that was adapted."""
    return PeftError(
        f"`{path}` is another module now ({kind}) than the one that was adapted, so its adapter "
        "did not act",
        code="R501",
        help="replace modules before peftlang.compile; or remove the adapter, and adapt the model "
        "as it is now",
    )


def used_past(path: str) -> PeftError:
    """The error for weights that are used past the forward of the module that has them."""
    return PeftError(
        f"the weights of `{path}` were used without its forward, so its adapter did not act",
        code="R501",
        help="call the module; a fused kernel does so when told to: "
        "torch.backends.mha.set_fastpath_enabled(False)",
    )
