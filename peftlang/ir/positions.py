"""The positions of the language, and the type of every name in scope at each."""

from peftlang.ir.dims import Dim
from peftlang.ir.types import Level, Type


def _token(*dims: str) -> Type:
    return Type(tuple(map(Dim.of, dims)), Level.TOKEN)


def _example(*dims: str) -> Type:
    return Type(tuple(map(Dim.of, dims)), Level.EXAMPLE)


def _weight(*dims: str) -> Type:
    return Type(tuple(map(Dim.of, dims)))


Scope = dict[str, Type]

PROJECTION: Scope = {
    "x": _token("d_x"),
    "h": _token("d_h"),
    "W": _weight("d_h", "d_x"),
    "b": _weight("d_h"),
}
SUBLAYER: Scope = {"x": _token("d_x"), "h": _token("d_h"), "resid": _token("d_h")}
BLOCK: Scope = {"x": _token("d_x"), "h": _token("d_h")}
CORE: Scope = {
    "x": _token("d_x"),
    "q": _token("heads", "d_head"),
    "k": _example("keys", "kv_heads", "d_head"),
    "v": _example("keys", "kv_heads", "d_head"),
    "h": _token("heads", "d_head"),
}
ACTIVATION: Scope = {"h": _token("d_h")}
NORM: Scope = {
    "x": _token("d_x"),
    "h": _token("d_h"),
    "W": _weight("d_h"),
    "b": _weight("d_h"),
}
EMBED: Scope = {"h": _token("d_h"), "W": _weight("vocab", "d_h")}
PROMPT: Scope = {"h": _example("tokens", "d_h")}

POSITIONS: dict[str, Scope] = {
    **{f"{kind}.{part}": PROJECTION for kind in ("attn", "cross_attn") for part in "qkvo"},
    **{f"ffn.{part}": PROJECTION for part in ("up", "gate", "down")},
    **{f"expert.{part}": PROJECTION for part in ("up", "gate", "down")},
    "router": PROJECTION,
    "head": PROJECTION,
    "linear": PROJECTION,
    "attn": SUBLAYER,
    "cross_attn": SUBLAYER,
    "ffn": SUBLAYER,
    "block": BLOCK,
    "attn.core": CORE,
    "cross_attn.core": CORE,
    "ffn.act": ACTIVATION,
    "norm": NORM,
    "embed": EMBED,
    "prompt": PROMPT,
}
"""Every position by name, with the type of each name that an expression may use there.

With sequential insertion ``x`` is the site's output, and ``d_x`` is its size.
"""

SITE_DIMS = frozenset(
    {"d_x", "d_h", "d_head", "heads", "kv_heads", "layers", "layer", "vocab"}
    | {"expert", "experts", "place", "places"}
    | {"keys", "tokens", "batch"}
)
"""Names of dimensions that a site brings."""

NUMBERS_OF_SITES = frozenset({"layer", "expert", "place"})
"""Those that count from 0, and so are no sizes: which layer, which expert, and which alternative
of the method's position."""

PROJECTIONS = frozenset(
    {"linear", "head", "ffn.up", "ffn.gate", "ffn.down"}
    | {f"{kind}.{part}" for kind in ("attn", "cross_attn") for part in "qkvo"}
)
"""Positions that are one linear map each; a router and single experts are not among them."""
