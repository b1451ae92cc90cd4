"""What `generate` keeps between calls, when a soft prompt makes a sequence longer than it seems.

Inside a call the cache is what it is. Outside, where ``generate`` counts tokens, it looks as if the
prompt were not in it; so slicing, cropping and position ids come out right.
"""

import functools
import types
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from peftlang.diagnostics import PeftError
from peftlang.emit.tokens import reads_places
from peftlang.ir.plan import Plan
from peftlang.prompts.sequences import is_filled

_COUNT = "peftlang_prompt"
_HOOK = "prepare_inputs_for_generation"


class _Shorter:
    """A cache whose length does not count the prompt."""

    peftlang_prompt: int

    def get_seq_length(self, *args: Any, **kwargs: Any) -> Any:
        whole = super().get_seq_length(*args, **kwargs)  # type: ignore[misc]
        return whole - self.peftlang_prompt if whole > 0 else whole

    def get_max_length(self, *args: Any, **kwargs: Any) -> Any:
        whole = super().get_max_length(*args, **kwargs)  # type: ignore[misc]
        return whole - self.peftlang_prompt if whole > 0 else whole

    def get_max_cache_shape(self, *args: Any, **kwargs: Any) -> Any:
        whole = super().get_max_cache_shape(*args, **kwargs)  # type: ignore[misc]
        return whole - self.peftlang_prompt if whole > 0 else whole

    def update(self, *args: Any, **kwargs: Any) -> Any:
        # A call with the prompt sees the cache as it is (`whole`); so this is one without.
        raise _without_prompt()

    def crop(self, length: int, *args: Any, **kwargs: Any) -> Any:
        # A positive number is the length that stays, a negative one what goes.
        kept = length + self.peftlang_prompt if length > 0 else length
        return super().crop(kept, *args, **kwargs)  # type: ignore[misc]


@functools.cache
def _shorter(kind: Hashable) -> type:
    assert isinstance(kind, type)
    return type(kind.__name__, (_Shorter, kind), {"__module__": kind.__module__})


def hide_prompt(cache: Any, count: int) -> None:
    """Let a cache that holds ``count`` virtual tokens look as if it did not."""
    if cache is None or isinstance(cache, tuple) or not count:
        return
    setattr(cache, _COUNT, count)
    if not isinstance(cache, _Shorter):
        cache.__class__ = _shorter(type(cache))  # type: ignore[arg-type]


def hidden_prompt(cache: Any) -> int:
    """How many virtual tokens a cache holds."""
    return int(getattr(cache, _COUNT, 0))


def held_by(cache: Any) -> int:
    """How many tokens a filled cache holds, virtual ones with them."""
    if isinstance(cache, tuple):
        return int(cache[0][0].shape[-2])
    seen = int(cache.get_seq_length())
    return seen + hidden_prompt(cache) if isinstance(cache, _Shorter) else seen


@contextmanager
def whole(cache: Any) -> Iterator[None]:
    """Show a cache as it is to the call inside."""
    kind = type(cache)
    if not isinstance(cache, _Shorter):
        yield
        return
    cache.__class__ = kind.__mro__[2]
    try:
        yield
    finally:
        cache.__class__ = kind


def make_room(cache: Any, count: int, window: int | None) -> None:
    """Let an empty cache of fixed size hold ``count`` tokens more.

    Args:
        cache: Any cache, or None.
        count: How many.
        window: The width of the model's sliding window, if it has one.
    """
    more = count - hidden_prompt(cache)
    for layer in getattr(cache, "layers", None) or ():
        length = getattr(layer, "max_cache_len", None)
        if not isinstance(length, int) or more <= 0:
            continue
        if getattr(layer, "is_sliding", False):
            layer.max_cache_len = min(window or length + more, length + more)
        else:
            layer.max_cache_len = length + more
        if layer.is_initialized:
            layer.lazy_initialization(layer.keys[:, :, :0], layer.values[:, :, :0])


def check_continues(cache: Any, present: int) -> None:
    """A filled cache must hold the prompt that acts, or none when none acts.

    Raises:
        PeftError: R515.
    """
    held = hidden_prompt(cache)
    if bool(held) == bool(present) or not is_filled(cache):
        return
    if held:
        raise _without_prompt()
    raise PeftError(
        "the cache was filled without the soft prompt that acts now",
        code="R515",
        help="start with an empty cache after switching adapters on or off",
    )


def _without_prompt() -> PeftError:
    return PeftError(
        "the cache was filled with a soft prompt, and none acts now",
        code="R515",
        help="start with an empty cache after switching adapters on or off",
    )


def prepare_generation(root: nn.Module, plans: Iterable[Plan]) -> None:
    """Let ``generate`` say which tokens are padding, where prompts or places of tokens need it."""
    needed = any(map(_reads_mask, plans))
    hooked = getattr(root.__dict__.get(_HOOK), "__func__", None)
    if not needed:
        if getattr(hooked, _COUNT, False):
            del root.__dict__[_HOOK]
    elif hooked is None and hasattr(root, _HOOK):
        root.__dict__[_HOOK] = types.MethodType(_prepare_of(getattr(type(root), _HOOK)), root)


def _reads_mask(plan: Plan) -> bool:
    prompted = any(site.role == "prompt" for site in plan.sites.values())
    return prompted or any(reads_places(use.method) for use in plan.uses.values())


@functools.cache
def _prepare_of(original: Any) -> Callable[..., Any]:
    @functools.wraps(original)
    def prepare(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        made = original(self, *args, **kwargs)
        # A mask per query and key is made for caches of fixed size; the model makes its own of
        # the one per token, which also says what is padding.
        for name in ("attention_mask", "decoder_attention_mask"):
            mask = made.get(name)
            if mask is not None and (isinstance(mask, dict) or mask.dim() > 2):
                made[name] = kwargs.get(name)
        return made

    setattr(prepare, _COUNT, True)
    return prepare
