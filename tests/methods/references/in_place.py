"""The reference of one site, at every site of a whole model: by hooks, at places found by hand."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from peftlang.ir.expr import Number
from peftlang.ir.method import Use
from peftlang.ir.plan import TRAINED, Placement, Plan, Site
from peftlang.ir.positions import POSITIONS, PROJECTION
from peftlang.ir.sizes import site_sizes
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.references.reference import KnownSite, Params, activation
from tests.methods.references import splice
from tests.methods.references.anatomy import Anatomy, Attention, Layer, Projection
from tests.methods.references.splice import AttentionCall

Values = dict[str, Any]


@dataclass(frozen=True)
class Facts(KnownSite):
    """What a reference is told of its site; `masks` is empty where scores have a bias."""

    role: str
    use: str
    sizes: dict[str, int]
    args: dict[str, Any]
    scale: float
    ids: Tensor | None
    causal: bool
    grid: tuple[int, int, int, int]
    masks: tuple[Tensor, ...]
    training: bool = False

    @property
    def mask(self) -> Tensor:
        if not self.masks:
            pytest.skip("the reference knows of no bias on scores")
        return self.masks[0]


@dataclass(frozen=True)
class Here:
    """One use at one site."""

    placement: Placement
    use: Use
    site: Site


@dataclass
class InPlace:
    """A plain model with a method's reference at each of the method's sites.

    Args:
        model: A copy of the base, which is changed.
        anatomy: Where its parts are.
        plan: Which sites there are, and which tensor each has.
        reference: The equation at one site.
        tensors: Every tensor of the adapter by the name of its group.
        given: What the spec declares as ``input``.
    """

    model: nn.Module
    anatomy: Anatomy
    plan: Plan
    reference: PythonReference
    tensors: dict[str, Tensor]
    given: dict[str, Tensor]
    inputs: dict[str, Any] = field(init=False, default_factory=dict)
    leaves: dict[str, Tensor] = field(init=False)
    _prompts: list[Here] = field(init=False, default_factory=list)
    _seen: dict[tuple[str, str], Tensor] = field(init=False, default_factory=dict)
    _states: dict[tuple[str, str | None, str], Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        splice.spell_out_attention(self.model)
        trained = {name for name, group in self.plan.groups.items() if group.trainable}
        trained |= {f"{TRAINED}.{name}" for name in self.plan.train}
        self.leaves = {
            name: value.detach().clone().requires_grad_(name in trained)
            for name, value in self.tensors.items()
        }
        for here in self._everywhere():
            self._place(here)
        for here in self._everywhere():
            for tapped in here.placement.taps.get(here.site.id, {}).values():
                self._record(self.plan.concerned[tapped.site], tapped.value)

    def run(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The output of a call, and the gradients of a fixed projection of it by name."""
        self.inputs = inputs
        self._states.clear()
        base = {name: self.leaves[f"{TRAINED}.{name}"] for name in self.plan.train}
        given, added = dict(self.inputs), 0
        for here in self._prompts:
            added = self._prompted(here, given)
        output = functional_call(self.model, base, (), given).logits[:, added:]
        return output.detach(), gradients(output, self.leaves)

    def _prompted(self, here: Here, given: dict[str, Any]) -> int:
        """Give the model embeddings with tokens in front; how many of its outputs they are."""
        if "pixel_values" in given:
            return 0
        ids = given.pop("input_ids")
        plain = self.model.get_input_embeddings()(ids)  # type: ignore[operator]
        longer = given["inputs_embeds"] = self.ask(here, {"h": plain})["h"]
        given.pop("attention_mask", None)
        return 0 if "decoder_input_ids" in given else longer.shape[1] - plain.shape[1]

    def _everywhere(self) -> Iterator[Here]:
        for placement in self.plan.placements:
            for site in placement.sites:
                use = self.plan.uses[placement.label]
                yield Here(placement, use, self.plan.sites[site])

    def _layer(self, site: Site) -> Layer:
        found = [
            layer
            for layer in self.anatomy.layers
            if layer.index == site.layer and layer.side in (None, site.side)
        ]
        assert len(found) == 1, site.id
        return found[0]

    def _attention(self, site: Site) -> Attention:
        layer = self._layer(site)
        found = layer.cross if site.role.startswith("cross_attn") else layer.attn
        assert found is not None
        return found

    def _projection(self, site: Site) -> Projection:
        whole = {p.path: p for p in self.anatomy.linears()}
        part = site.role.rpartition(".")[2]
        if site.role.startswith(("attn.", "cross_attn.")):
            found = getattr(self._attention(site), part)
        elif site.role.startswith("ffn."):
            found = getattr(self._layer(site).ffn, part)
        else:
            found = whole.get(site.path, Projection(site.path))
        assert isinstance(found, Projection)
        return found

    def _place(self, here: Here) -> None:
        role = here.site.role
        if POSITIONS[role] is PROJECTION:
            self._place_projection(here)
        elif role.endswith(".core"):
            self._place_core(here)
        elif role == "block":
            self._place_block(here)
        elif role in {"attn", "cross_attn", "ffn"}:
            self._place_sublayer(here)
        elif role == "ffn.act":
            path = self._layer(here.site).ffn.down.path
            splice.change_input(self.model, path, lambda h: self.ask(here, {"h": h})["h"])
        elif role == "prompt":
            self._prompts.append(here)
            if self.anatomy.through:
                self._place_before_patches(here)
        else:
            assert role in {"norm", "embed"}, role
            self._place_module(here)

    def _place_projection(self, here: Here) -> None:
        projection = self._projection(here.site)

        def change(x: Tensor, h: Tensor) -> Tensor:
            own = {"W": splice.weight(self.model, projection)}
            b = splice.bias(self.model, projection)
            values: Values = {"x": x, **own, **({} if b is None else {"b": b})}
            new = self.ask(here, {**values, "h": h})
            if "h" in new:
                return new["h"]
            values |= new
            return linear(values["x"], values["W"], values.get("b"))

        splice.change_output(self.model, projection, change)

    def _place_module(self, here: Here) -> None:
        def hook(module: nn.Module, args: tuple[Any, ...], h: Tensor) -> Tensor:
            image = isinstance(module, nn.Conv2d)
            seen = h.movedim(1, -1) if image else h
            new = self.ask(here, {"x": args[0], "h": seen, "W": module.weight})["h"]
            return new.movedim(-1, 1) if image else new

        self.model.get_submodule(here.site.path).register_forward_hook(hook)

    def _place_sublayer(self, here: Here) -> None:
        role, layer = here.site.role, self._layer(here.site)
        ends = layer.ffn.up, layer.ffn.down
        if role != "ffn":
            ends = self._attention(here.site).q, self._attention(here.site).o

        def change(x: Tensor, h: Tensor, *resid: Tensor) -> Tensor:
            return self.ask(here, {"x": x, "h": h, **({"resid": resid[0]} if resid else {})})["h"]

        stream = layer.ffn.stream if role == "ffn" else None
        splice.change_sublayer(self.model, ends[0].path, ends[1].path, change, stream)

    def _place_block(self, here: Here) -> None:
        path = self._layer(here.site).block
        if "x" in here.use.method.targets:
            splice.change_input(self.model, path, lambda x: self.ask(here, {"x": x})["x"])
            return
        splice.change_sublayer(
            self.model, path, path, lambda x, h: self.ask(here, {"x": x, "h": h})["h"]
        )

    def _place_before_patches(self, here: Here) -> None:
        """Put tokens before an image's where these enter the layers, and cut them off after."""
        first, last = (self.model.get_submodule(path) for path in self.anatomy.through)
        own: list[int] = []

        def longer(_: nn.Module, args: tuple[Any, ...], h: Tensor) -> Tensor:
            own[:] = [h.shape[1]]
            return self.ask(here, {"h": h})["h"]

        first.register_forward_hook(longer)
        last.register_forward_pre_hook(lambda _, args: (args[0][:, -own[0] :],))

    def _place_core(self, here: Here) -> None:
        attention = self._attention(here.site)
        seen: dict[str, Tensor] = {}
        query = self.model.get_submodule(attention.q.path)
        query.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
        kv_heads = here.site.dims["kv_heads"]

        def core(call: AttentionCall) -> Tensor:
            groups = call.q.shape[1] // kv_heads
            h = splice.plain_core(call).transpose(1, 2)
            q, k, v = (
                t.transpose(1, 2) for t in (call.q, call.k[:, ::groups], call.v[:, ::groups])
            )
            values: Values = {"x": seen["x"], "q": q, "k": k, "v": v, "h": h}
            for part, projection in (("W_k", attention.k), ("W_v", attention.v)):
                values[part] = splice.weight(self.model, projection)
            new = self.ask(here, values, call)
            if "h" in new:
                return new["h"].transpose(1, 2)
            return _attended({**values, **new}, call, groups)

        splice.change_core(self.model, attention, core)

    def _record(self, site: Site, value: str) -> None:
        """Keep what a tap reads: an input or an output of a layer or a projection."""
        if site.role != "block" and POSITIONS[site.role] is not PROJECTION:
            pytest.skip(f"a tap of `{site.role}.{value}` is not kept")
        path = self._layer(site).block if site.role == "block" else self._projection(site).path
        module, key = self.model.get_submodule(path), (site.id, value)

        def keep(found: Any) -> None:
            self._seen[key] = found[0] if isinstance(found, tuple) else found

        if value == "x":
            module.register_forward_pre_hook(lambda _, args: keep(args[0]))
        else:
            module.register_forward_hook(lambda _, args, output: keep(output))

    def ask(self, here: Here, values: Values, call: AttentionCall | None = None) -> Values:
        """New values of names by the reference."""
        site, method = here.site, here.use.method
        like = values["h"] if "h" in values else values["x"]
        tapped = here.placement.taps.get(site.id, {})
        streams = {name: self._seen[tap.site, tap.value] for name, tap in tapped.items()}
        for carry in method.carries:
            state = self._states.get(self._chain(here, carry.name))
            if state is None:
                assert isinstance(carry.init, Number) or not carry.init.type.dims
                sizes = self._sizes(here)
                shape = [*like.shape[:2], *(dim.evaluate(sizes) for dim in carry.dims)]
                state = like.new_zeros(shape)
            streams[carry.name] = state
        own = {n: self.leaves[group] for n, group in here.placement.tensors[site.id].items()}
        given = {
            "site": self._facts(here, like, call),
            "params": Params(own),
            "x": None,
            "h": None,
            "W": None,
            "b": None,
            **values,
            **self.given,
            **streams,
        }
        found = self.reference.call("reference", given, site.id)
        new: Values = {"h": found} if isinstance(found, Tensor) else dict(found)
        for carry in method.carries:
            if carry.name in new:
                self._states[self._chain(here, carry.name)] = new.pop(carry.name)
        return new or {"h": like}

    def _chain(self, here: Here, name: str) -> tuple[str, str | None, str]:
        return here.placement.label, here.site.stack, name

    def _sizes(self, here: Here) -> dict[str, int]:
        site, tapped = here.site, here.placement.tapped_sizes(here.site.id)
        return {**site_sizes(here.use.method, here.use.args, site, tapped), **site.dims}

    def _facts(self, here: Here, like: Tensor, call: AttentionCall | None) -> Facts:
        site = here.site
        args: dict[str, Any] = {**here.use.args, **(self.plan.spec.args if self.plan.spec else {})}
        for hyper in here.use.method.hypers:
            if hyper.kind == "fn":
                args[hyper.name] = activation(str(args[hyper.name]))
        rows, tokens = like.shape[:2]
        keys = call.k.shape[2] if call else tokens
        sizes = {**self._sizes(here), "batch": rows, "tokens": tokens, "keys": keys}
        causal = site.sees == "earlier" and not site.role.startswith("cross_attn")
        plain = torch.ones(tokens, keys, dtype=torch.bool)
        masks = (plain.tril(),) if causal else (plain,)
        if call is not None and call.bias is not None and not _is_a_mask(call.bias, masks[0]):
            masks = ()
        scale = call.scale if call else 1.0
        grid = 0, tokens, 1, 0
        if "pixel_values" in self.inputs:
            grid = 1, isqrt(tokens - 1), isqrt(tokens - 1), 0
        ids, label = self._ids(site), here.use.label
        return Facts(site.role, label, sizes, args, scale, ids, causal, grid, masks)

    def _ids(self, site: Site) -> Tensor | None:
        own = self.inputs.get("decoder_input_ids") if site.side == "decoder" else None
        return self.inputs.get("input_ids") if own is None else own


def _is_a_mask(bias: Tensor, mask: Tensor) -> bool:
    """Whether what is added to the scores hides keys and does nothing else."""
    return bool(((bias == 0) == mask).all()) and bool((bias[bias != 0] < -1e9).all())


def _attended(values: Values, call: AttentionCall, groups: int) -> Tensor:
    """The attention product with new operands; keys beyond the base's stand in front."""
    q, k, v = (values[name].transpose(1, 2) for name in "qkv")
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    scores = q @ k.mT * call.scale
    extra = k.shape[2] - call.k.shape[2]
    if call.bias is not None:
        scores = scores + nn.functional.pad(call.bias, (extra, 0))
    return torch.softmax(scores, dim=-1) @ v


def gradients(output: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of an output, zeros where there are none."""
    trained = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    total = (output * weights).sum()
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        total, list(trained.values()), allow_unused=True
    )
    pairs = zip(trained.items(), found, strict=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}
