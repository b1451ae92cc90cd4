"""The plain references themselves, against HF PEFT's own layers with the same weights.

Each method that HF PEFT has is put on one `nn.Linear`; its parameters are computed from ours, so
that gradients flow through PEFT's layer back to our tensors.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import peft
import peft.tuners.boft.layer as boft_layer
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.methods.test_one_site import LIBRARY
from tests.oracles.plain import SPECS, changed

D_X, D_H = 16, 24
SCALED = {"r": 3, "alpha": 6.0}
Tensors = dict[str, Tensor]


def _same(value: Tensor) -> Tensor:
    return value


def _upper(free: Tensor) -> Tensor:
    """PEFT keeps the upper triangle of S, where ours is S = (Q - Q') / 2."""
    rows, columns = torch.triu_indices(free.shape[-1], free.shape[-1], 1)
    return ((free - free.mT) / 2)[..., rows, columns]


@dataclass(frozen=True)
class Method:
    """A method as PEFT has it.

    Attributes:
        config: Its configuration.
        facts: Hyper-parameters as our spec has them.
        shapes: Our tensors.
        named: PEFT's name of each, and its value from ours.
        more: Buffers of ours that do not train, as PEFT makes them.
        tolerance: Where PEFT computes in float32.
    """

    config: Any
    facts: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    named: dict[str, tuple[str, Callable[[Tensor], Tensor]]]
    more: Callable[[Any], Tensors] = lambda layer: {}
    tolerance: float = 1e-10


def _plain(**names: str) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    return {ours: (theirs, _same) for ours, theirs in names.items()}


LORA = _plain(A="lora_A.default.weight", B="lora_B.default.weight")
LOW = {"A": (3, D_X), "B": (D_H, 3)}
TARGET = {"target_modules": ["lin"]}


def _indices(layer: Any) -> Tensors:
    return {"E": layer.indices["default"].T}


METHODS: dict[str, Method] = {
    "lora": Method(peft.LoraConfig(r=3, lora_alpha=6, **TARGET), SCALED, LOW, LORA),
    "rslora": Method(
        peft.LoraConfig(r=3, lora_alpha=6, use_rslora=True, **TARGET), SCALED, LOW, LORA
    ),
    "dora": Method(
        peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, **TARGET),
        SCALED,
        LOW | {"m": (D_H,)},
        LORA | _plain(m="lora_magnitude_vector.default.weight"),
    ),
    "vera": Method(
        peft.VeraConfig(r=5, **TARGET),
        {"r": 5},
        {"A": (5, D_X), "B": (D_H, 5), "lambda_d": (5,), "lambda_b": (D_H,)},
        _plain(
            A="vera_A.default",
            B="vera_B.default",
            lambda_d="vera_lambda_d.default",
            lambda_b="vera_lambda_b.default",
        ),
    ),
    "loha": Method(
        peft.LoHaConfig(r=3, alpha=6, **TARGET),
        SCALED,
        {"A_1": (3, D_X), "B_1": (D_H, 3), "A_2": (3, D_X), "B_2": (D_H, 3)},
        _plain(
            A_1="hada_w1_b.default",
            B_1="hada_w1_a.default",
            A_2="hada_w2_b.default",
            B_2="hada_w2_a.default",
        ),
    ),
    "lokr": Method(
        peft.LoKrConfig(r=1, alpha=6, decompose_factor=4, **TARGET),
        {"r": 1, "alpha": 6.0, "f": 4},
        {"C": (4, 4), "A": (1, D_X // 4), "B": (D_H // 4, 1)},
        _plain(C="lokr_w1.default", A="lokr_w2_b.default", B="lokr_w2_a.default"),
    ),
    "fourierft": Method(
        peft.FourierFTConfig(n_frequency=9, scaling=30.0, random_loc_seed=5, **TARGET),
        {"n": 9, "alpha": 30.0, "seed": 5},
        {"c": (9,)},
        _plain(c="fourierft_spectrum.default"),
        more=_indices,
        tolerance=1e-5,
    ),
    "oft": Method(
        peft.OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, **TARGET),
        {"b": 4},
        {"Q": (D_X // 4, 4, 4)},
        {"Q": ("oft_R.default.weight", _upper)},
        tolerance=1e-5,
    ),
    "boft": Method(
        peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=3, **TARGET),
        {"b": 4, "factors": 3},
        {"Q": (3, D_X // 4, 4, 4), "s": (D_H,)},
        {"Q": ("boft_R.default", _same), "s": ("boft_s.default", lambda s: s.unsqueeze(1))},
    ),
    "ia3": Method(
        peft.IA3Config(feedforward_modules=[], **TARGET),
        {},
        {"l": (D_H,)},
        {"l": ("ia3_l.default", lambda v: v.unsqueeze(1))},
    ),
}


class BlockDiagonal:
    """What PEFT's CUDA kernel computes, on any device."""

    @staticmethod
    def apply(blocks: Tensor) -> Tensor:
        return torch.stack([torch.block_diag(*factor) for factor in blocks])


@contextmanager
def _with_kernel() -> Iterator[None]:
    """Without its CUDA extension PEFT takes one factor of BOFT silently; stand in for it."""
    with (
        patch.object(boft_layer, "get_fbd_cuda", lambda: True),
        patch.object(boft_layer, "FastBlockDiag", BlockDiagonal),
    ):
        yield


def layer_of(config: Any) -> Any:
    """PEFT's layer around one linear map, in float64."""
    model = nn.Sequential()
    model.add_module("lin", nn.Linear(D_X, D_H))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, config)
    return wrapped.double().eval().base_model.model.lin


@dataclass
class Site:
    """A linear map's input, weight and output, and a method's tensors away from any start."""

    layer: Any
    method: Method
    x: Tensor = field(init=False)
    params: Tensors = field(init=False)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(3)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_()

        self.x = random(2, 5, D_X)
        self.params = {name: random(*shape) for name, shape in self.method.shapes.items()}

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, *self.params.values()]

    def ours(self, spec: str) -> Tensor:
        W, b = (t.detach() for t in self._base())
        found: Tensor = changed(
            spec,
            self.method.facts,
            self.params | self.method.more(self.layer),
            x=self.x,
            h=nn.functional.linear(self.x, W, b),
            W=W,
            b=b,
        )
        return found

    def theirs(self) -> Tensor:
        given = {path: of(self.params[name]) for name, (path, of) in self.method.named.items()}
        held = dict([*self.layer.named_parameters(), *self.layer.named_buffers()])
        for path, value in given.items():
            assert held[path].shape == value.shape, path
        found: Tensor = functional_call(self.layer, given, (self.x,))
        return found

    def _base(self) -> tuple[Tensor, Tensor]:
        linear = self.layer.get_base_layer()
        return linear.weight, linear.bias


@pytest.mark.parametrize("spec", METHODS)
def test_a_reference_is_what_the_library_computes(spec: str) -> None:
    method = METHODS[spec]
    torch.manual_seed(0)
    with _with_kernel():
        site = Site(layer_of(method.config), method)
        pairs = [(site.ours(spec), site.theirs())]
        slopes = torch.randn(pairs[0][0].shape).double()
        gradients = [torch.autograd.grad((slopes * h).sum(), site.leaves) for h in pairs[0]]
    pairs += zip(*gradients, strict=True)
    for got, want in pairs:
        scale = float(want.detach().abs().max())
        assert scale > 0
        torch.testing.assert_close(got, want, rtol=0, atol=method.tolerance * scale)


def test_every_method_of_the_library_in_specs_is_compared() -> None:
    """Those that are of whole models, and those of `LIBRARY`, are compared in `tests/methods`.

    HF PEFT's P-tuning prompts come from another network (two hidden layers, or an LSTM), its X-LoRA
    runs the model twice, and its DEFT is another method of that name.
    """
    known = {"lora", "dora", "rslora"} | {kind.value.lower() for kind in peft.PeftType}
    ours = {path.stem for path in SPECS.glob("*.peft")}
    whole = {"prompt_tuning", "p_tuning", "norm_tuning", "prefix", "ln_tuning", "prefix_tuning"}
    others = {"deft", "xlora"}
    assert (known & ours) - whole - others <= set(METHODS) | set(LIBRARY)
