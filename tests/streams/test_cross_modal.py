"""UniAdapter's cross-modal layers, in a model of an encoder and a decoder that attends to it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, relu

import peftlang
from peftlang.models import build
from tests.architectures.by_hand import batch

PRESET, R, S = "tiny-bart", 4, 0.5


class ByHand:
    """The plain preset with the adapter's equation on hooks; D, g and c are one set for a layer."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.model: Any = build(PRESET).requires_grad_(False)
        self.tensors, self.seen = tensors, dict[tuple[str, int, str], Tensor]()
        for side in ("encoder", "decoder"):
            layers: Any = self.model.get_submodule(f"model.{side}.layers")
            for number, layer in enumerate(layers):
                self.watch(layer.fc1, side, number, "y")
                layer.fc2.register_forward_hook(self.change(side, number))
                if side == "decoder":
                    self.watch(layer.encoder_attn, side, number, "q")

    def watch(self, module: nn.Module, side: str, number: int, name: str) -> None:
        def keep(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.seen[side, number, name] = given[0] if given else named["hidden_states"]

        module.register_forward_pre_hook(keep, with_kwargs=True)

    def narrow(self, side: str, number: int, name: str) -> Tensor:
        D, g, c = (self.tensors[f"uniadapter.shared.ffn.{number}.{one}"] for one in "Dgc")
        stream = self.seen[side, number, name]
        return relu(linear(layer_norm(stream, stream.shape[-1:], g, c), D))

    def change(self, side: str, number: int) -> Any:
        def own(name: str) -> Tensor:
            use = "uniadapter" if side == "encoder" else "cross"
            (found,) = (
                tensor
                for key, tensor in self.tensors.items()
                if key.startswith(f"{use}.model.{side}.layers.{number}.")
                and key.endswith(f".{name}")
            )
            return found

        def after(_module: nn.Module, _given: Any, h: Tensor) -> Tensor:
            z = self.narrow(side, number, "y")
            if side == "encoder":
                return h + S * linear(z, own("U"))
            both = linear(z, own("U_m") + own("U"))
            found = layer_norm(both, both.shape[-1:], own("g_m"), own("c_m"))
            return h + S * (linear(self.narrow(side, number, "q"), own("U")) + found)

        return after


def test_one_way_down_for_both_and_two_ways_up_where_they_meet() -> None:
    inputs = batch(PRESET)
    model = peftlang.compile(build(PRESET), "uniadapter_cross", r=R, args={"s": S})
    tensors = dict(peftlang.adapters(model)["default"].parameters())
    assert len(tensors) == 2 * (3 + 1 + 4)
    made = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=made)
    found = model(**inputs).logits
    wanted = ByHand(tensors).model(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(found.square().mean(), list(tensors.values()))
    theirs = torch.autograd.grad(wanted.square().mean(), list(tensors.values()))
    for name, got, expected in zip(tensors, ours, theirs, strict=True):
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5, msg=name)
