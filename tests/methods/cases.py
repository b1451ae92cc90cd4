"""Every method with small arguments, and what each preset's size makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tests.methods.harness import SHORT, TOKENS, Attention, Case

Shape = tuple[int, int]
"""(d_x, d_h) of a site."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a preset, by hand. Width 32 and heads of 8 everywhere."""

    inner: tuple[int, ...]
    """Feed-forward width of each layer; their number is the number of layers."""
    kv_heads: int = 4
    cross: int = 0

    @property
    def layers(self) -> int:
        return len(self.inner)

    @property
    def kv(self) -> int:
        return 8 * self.kv_heads


SIZES = {
    "tiny-llama": Sizes((88, 88), kv_heads=2),
    "tiny-gpt2": Sizes((88, 88)),
    "tiny-bert": Sizes((88, 88)),
    "tiny-vit": Sizes((88, 88)),
    "tiny-t5": Sizes((88, 88, 88, 88), cross=2),
    "tiny-bart": Sizes((88, 88, 104, 104), cross=2),
}


def queries_and_values(s: Sizes) -> list[Shape]:
    return [(32, 32), (32, s.kv)] * s.layers


def rescaled(s: Sizes) -> list[Shape]:
    keys_and_values = [(32, s.kv)] * (2 * (s.layers + s.cross))
    return keys_and_values + [(width, width) for width in s.inner]


def sublayers(s: Sizes) -> list[Shape]:
    return [(32, 32)] * (2 * s.layers + s.cross)


def feed_forwards(s: Sizes) -> list[Shape]:
    return [(32, 32)] * s.layers


def downs(s: Sizes) -> list[Shape]:
    return [(width, 32) for width in s.inner]


def cores(s: Sizes) -> list[Shape]:
    return [(32, s.kv)] * (s.layers + s.cross)


def once(s: Sizes) -> list[Shape]:
    return [(32, 32)]


@dataclass(frozen=True)
class Method:
    """Arguments, places, and trainable parameters per site (`d_x`, `d_h`)."""

    args: dict[str, Any]
    places: Callable[[Sizes], list[Shape]]
    per_site: Callable[[int, int], int]
    identity: bool = True


def _bottleneck(d_x: int, d_h: int) -> int:
    return 4 * (d_x + d_h) + 4 + d_h


METHODS: dict[str, Method] = {
    "lora": Method({"r": 4, "alpha": 8.0}, queries_and_values, lambda x, h: 4 * (x + h)),
    "rslora": Method({"r": 4, "alpha": 8.0}, queries_and_values, lambda x, h: 4 * (x + h)),
    "dora": Method({"r": 4, "alpha": 8.0}, queries_and_values, lambda x, h: 4 * (x + h) + h),
    "vera": Method({"r": 6}, queries_and_values, lambda x, h: 6 + h),
    "loha": Method({"r": 3, "alpha": 6.0}, queries_and_values, lambda x, h: 6 * (x + h)),
    "lokr": Method(
        {"r": 1, "alpha": 2.0, "f": 4}, queries_and_values, lambda x, h: 16 + (x + h) // 4
    ),
    "fourierft": Method(
        {"n": 20, "alpha": 30.0}, queries_and_values, lambda x, h: 20, identity=False
    ),
    "oft": Method({"b": 4}, queries_and_values, lambda x, h: 4 * x),
    "boft": Method({"b": 4, "factors": 3}, queries_and_values, lambda x, h: 12 * x + h),
    "molora": Method({"E": 3, "r": 2}, queries_and_values, lambda x, h: 6 * (x + h) + 3 * x),
    "ia3": Method({}, rescaled, lambda x, h: h),
    "houlsby": Method({"r": 4}, sublayers, _bottleneck),
    "pfeiffer": Method({"r": 4}, feed_forwards, _bottleneck),
    "parallel_adapter": Method({"r": 4, "s": 1.0}, feed_forwards, _bottleneck),
    "scaled_parallel_adapter": Method({"r": 4, "s": 4.0}, feed_forwards, _bottleneck),
    "adapter_bias": Method({}, downs, lambda x, h: x + h + 1),
    "prefix": Method({"l": 3}, cores, lambda x, h: 6 * h, identity=False),
    "prefix_gated": Method({"l": 3}, cores, lambda x, h: 6 * h, identity=False),
    "multi_head_parallel_adapter": Method({"l": 3}, cores, lambda x, h: 6 * h),
    "loreft": Method(
        {"r": 3, "first": 1, "last": 2}, feed_forwards, lambda x, h: 3 * (2 * h + 1), identity=False
    ),
    "prompt_tuning": Method({"l": 3}, once, lambda x, h: 3 * h, identity=False),
}

_EVERYWHERE = ("tiny-llama", "tiny-bert", "tiny-t5")
_FUSED = ("lora", "dora", "ia3", "houlsby", "loreft", "prefix", "prefix_gated")
"""Methods, one of each kind, on the model with one transposed projection for q, k and v."""
_MORE_PRESETS: dict[str, tuple[str, ...]] = {
    "lora": ("tiny-bart", "tiny-vit"),
    "houlsby": ("tiny-bart", "tiny-vit"),
    "ia3": ("tiny-vit",),
    "prefix": ("tiny-bart", "tiny-vit"),
    "loreft": ("tiny-vit",),
}
_SPELLED_OUT = ("prefix", "prefix_gated")


def chosen_tokens(first: int, last: int, *, image: bool = False) -> torch.Tensor:
    """1 at the first and last real tokens of the batch's rows."""
    if image:
        rows = torch.zeros(2, 17)
        rows[:, :first] = rows[:, 17 - last :] = 1
        return rows
    rows = torch.zeros(2, TOKENS)
    for row, length in zip(rows, (TOKENS, SHORT), strict=True):
        row[:first] = row[length - last : length] = 1
    return rows


def _more(method: str, preset: str) -> dict[str, Any]:
    if method != "loreft":
        return {}
    tokens = chosen_tokens(1, 2, image=preset == "tiny-vit")
    decoder = torch.zeros(2, SHORT)
    decoder[:, [0, -2, -1]] = 1
    return {"chosen": {None: tokens, "encoder": tokens, "decoder": decoder}}


def case(name: str, preset: str, attention: Attention = "sdpa") -> Case:
    method, sizes = METHODS[name], SIZES[preset]
    places = method.places(sizes)
    return Case(
        name,
        preset,
        method.args,
        sites=len(places),
        count=sum(method.per_site(*shape) for shape in places),
        attention=attention,
        more=_more(name, preset),
    )


def _mam(preset: str) -> Case:
    prefix, adapter = case("prefix", preset), case("scaled_parallel_adapter", preset)
    return Case(
        "mam",
        preset,
        {"l": 3, "r": 4, "s": 4.0},
        sites=prefix.sites + adapter.sites,
        count=prefix.count + adapter.count,
    )


def _hyperformer(preset: str) -> Case:
    sizes = SIZES[preset]
    stack = sizes.layers // 2 if sizes.cross else sizes.layers
    tasks, code, r = 3, 5, 4
    shared = (tasks + stack) * code + 2 * (32 * r * 2 * code)
    task = {"task": torch.tensor([2, 0])}
    return Case(
        "hyperformer",
        preset,
        {"r": r, "t": code, "tasks": tasks},
        sites=2 * sizes.layers,
        count=shared,
        more=task,
        inputs=task,
    )


def _diff_pruning(preset: str) -> Case:
    sizes = SIZES[preset]
    gated = 3 if preset == "tiny-t5" else 2
    attention = 4 * 32 * 32 * (sizes.layers + sizes.cross)
    fused = preset == "tiny-gpt2"
    weights = attention + sum(gated * 32 * width for width in sizes.inner)
    sites = (2 if fused else 4) * (sizes.layers + sizes.cross) + gated * sizes.layers
    if preset == "tiny-bert":
        weights, sites = weights + 32 * 32, sites + 1
    return Case("diff_pruning", preset, {}, sites=sites, count=2 * weights)


def _trained(method: str, preset: str) -> Case:
    return Case(method, preset)


def all_cases() -> list[Case]:
    """Every method on every preset that its oracle covers."""
    cases = [
        case(name, preset)
        for name in METHODS
        for preset in (*_EVERYWHERE, *_MORE_PRESETS.get(name, ()))
    ]
    cases += [case(name, "tiny-gpt2") for name in _FUSED]
    cases += [case(name, "tiny-llama", "eager") for name in _SPELLED_OUT]
    cases += [case("prefix_gated", "tiny-t5", "eager")]
    cases += [_diff_pruning(preset) for preset in ("tiny-gpt2", "tiny-bert", "tiny-t5")]
    cases += [_mam(preset) for preset in ("tiny-llama", "tiny-bert", "tiny-bart")]
    cases += [_hyperformer(preset) for preset in ("tiny-llama", "tiny-bert", "tiny-t5")]
    for name in ("bitfit", "norm_tuning"):
        cases += [_trained(name, p) for p in ("tiny-gpt2", "tiny-bert", "tiny-bart")]
    cases += [_trained("norm_tuning", p) for p in ("tiny-llama", "tiny-t5")]
    return cases


IDENTITIES = frozenset(
    {name for name, method in METHODS.items() if method.identity}
    | {"hyperformer", "diff_pruning", "bitfit", "norm_tuning"}
)
"""Methods whose specs promise to start exactly at the base."""
