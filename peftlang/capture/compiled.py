"""Functions that TorchDynamo compiles with a backend of ours, and what it does when it gives up."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch._dynamo as dynamo
from torch._dynamo import eval_frame
from torch._dynamo.backends.registry import list_backends, lookup_backend
from torch._dynamo.exc import BackendCompilerFailed, FailOnRecompileLimitHit

from peftlang.capture.checkpoints import run_plainly
from peftlang.capture.frontend import PROCESS_LIMIT, fastpath_disabled, switched_off
from peftlang.diagnostics import PeftError, did_you_mean

RECOMPILE_LIMIT = 512
"""How often one frame may be compiled. Layers that share code count together, so this is far
above Dynamo's own limit of 8; reaching it is an error, never a silent return to plain Python."""

Function = TypeVar("Function", bound=Callable[..., Any])

Backend = Callable[[Any, list[Any]], Callable[..., Any]]


def compile_function(function: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    """Return ``function`` compiled by TorchDynamo on its first call, graphs going to ``backend``.

    While TorchDynamo is switched off ``function`` runs as it is. The result raises ``PeftError``
    R507 when a frame was recompiled too often.
    """
    compiled: Callable[..., Any] | None = None

    def call(limit: int, *args: Any, **kwargs: Any) -> Any:
        nonlocal compiled
        if switched_off():
            return function(*args, **kwargs)
        if compiled is None:
            # What torch.compile makes while it is switched off would stay so for good.
            compiled = torch.compile(function, backend=backend)
        try:
            with (
                fastpath_disabled(),
                dynamo.config.patch(
                    recompile_limit=limit,
                    accumulated_recompile_limit=PROCESS_LIMIT,
                    fail_on_recompile_limit_hit=True,
                    suppress_errors=False,
                ),
            ):
                return compiled(*args, **kwargs)
        except BackendCompilerFailed as error:
            if isinstance(error.inner_exception, PeftError):
                raise error.inner_exception from None
            raise
        except FailOnRecompileLimitHit as error:
            raise PeftError(
                f"the adapted model was compiled for {limit} kinds of input, and this call is of "
                "another kind",
                code="R507",
                help="pad inputs to fewer shapes, pass the same keyword arguments in every call, "
                "or raise the limit: peftlang.compile(..., recompile_limit=1024)",
            ) from error

    return call


def only_inlined(function: Function) -> Function:
    """Let Dynamo trace through ``function`` from what calls it, and else leave it to Python.

    In plain Python it runs exactly when a caller's frame could not be recorded whole; what it
    calls is compiled as if it were not there.
    """
    eval_frame.skip_code(function.__code__)
    return function


def inner_backend(name: str) -> Backend:
    """The backend that runs rewritten graphs.

    Args:
        name: ``eager`` or any backend of ``torch.compile``: ``inductor``, ``aot_eager``, …

    Raises:
        PeftError: R508, torch has no backend of this name.
    """
    if name == "eager":
        return run_plainly
    known = ["eager", *list_backends(exclude_tags=())]
    if name not in known:
        raise PeftError(
            f"torch has no backend `{name}`",
            code="R508",
            help=did_you_mean(name, known) or "one of " + ", ".join(sorted(known)),
        )
    found: Backend = lookup_backend(name)
    return found
