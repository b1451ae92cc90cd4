"""Methods at single experts, against the same changes of a plain model's weights."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models.presets import PRESETS
from tests.runtime.virtual_tokens import ids

INNER, EXPERTS = 88, 4
PATH = "model.layers.0.mlp.experts"


def shallow(**options: Any) -> Any:
    whole = PRESETS["tiny-mixtral"]
    changed = (whole.options or {}) | {"num_hidden_layers": 1} | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(whole, options=changed).build().eval()


def noisy(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors, none of them as it started."""
    tensors = peftlang.adapters(model)["default"].parameters()
    made = torch.Generator().manual_seed(2)
    for tensor in tensors.values():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=made)
    return tensors


def answer(model: nn.Module, changed: dict[str, Tensor] | None = None) -> Tensor:
    found: Any = torch.func.functional_call(model, changed or {}, (ids(),))
    return found.logits  # type: ignore[no-any-return]


def test_lora_of_each_expert_is_its_own_change_of_weights() -> None:
    model = peftlang.compile(shallow(), "lora", at="expert.up, expert.gate, expert.down", r=2)
    tensors, base = noisy(model), shallow()
    weights = dict(base.named_parameters())

    def change(part: str, expert: int) -> Tensor:
        name = f"lora.{PATH}.expert_{part}.{expert}"
        return 8.0 * tensors[f"{name}.B"] @ tensors[f"{name}.A"]

    fused = [torch.cat([change("gate", e), change("up", e)]) for e in range(EXPERTS)]
    changed = {
        f"{PATH}.gate_up_proj": weights[f"{PATH}.gate_up_proj"] + torch.stack(fused),
        f"{PATH}.down_proj": weights[f"{PATH}.down_proj"]
        + torch.stack([change("down", e) for e in range(EXPERTS)]),
    }
    found, wanted = answer(model), answer(base, changed)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert len(tensors) == 3 * EXPERTS * 2
    gradients = torch.autograd.grad(found.square().sum(), list(tensors.values()))
    same = torch.autograd.grad(wanted.square().sum(), list(tensors.values()))
    for name, ours, theirs in zip(tensors, gradients, same, strict=True):
        assert theirs.abs().max() > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    peftlang.merge(model)
    torch.testing.assert_close(answer(model), found, rtol=1e-4, atol=1e-5)


def test_a_path_beside_each_expert_is_weighed_by_the_base_router() -> None:
    model, base = peftlang.compile(shallow(), "perft_e", r=3), shallow()
    tensors = noisy(model)
    A, B = (next(t for name, t in tensors.items() if name.endswith(end)) for end in (".A", ".B"))

    def after(block: Any, given: Any, h: Tensor) -> Tensor:
        probabilities = nn.functional.linear(given[0], block.gate.weight).softmax(-1)
        gates, chosen = probabilities.topk(2)
        kept = torch.zeros_like(probabilities).scatter(-1, chosen, gates)
        made = torch.einsum("edr,erx,btx->bted", B, A, given[0])
        weighed = kept[..., None] * made / kept.sum(-1)[..., None, None]
        return h + 16.0 / 3 * weighed.sum(-2)

    base.get_submodule("model.layers.0.mlp").register_forward_hook(after)
    found, wanted = answer(model), answer(base)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(found.square().sum(), [A, B])
    same = torch.autograd.grad(wanted.square().sum(), [A, B])
    for ours, theirs in zip(gradients, same, strict=True):
        assert all(expert.abs().max() > 0 for expert in theirs)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


BOTH = """
method scaled() {
    param s[d_x] ~ ones
    param t[d_h] ~ ones
    position expert.down where expert < 3
    composition x = s * x
    composition h = t * h
    sharing s across experts
}
method moved(r: int = 2) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ normal
    param m[d_h] ~ norm(W, over d_x)
    position expert.gate except (expert.gate where expert >= 1)
    let V = W + B @ A
    composition W = (m / norm(V, over d_x)) * V
}
adapter both() {
    scaled()
    moved()
}
"""


def test_experts_are_chosen_share_and_change_their_weights() -> None:
    model = peftlang.compile(shallow(), BOTH, entry="both")
    plain = {n: p for n, p in shallow().named_parameters() if n.startswith(PATH)}
    start = peftlang.adapters(model)["default"].parameters()[f"moved.{PATH}.expert_gate.0.m"]
    torch.testing.assert_close(start.data, plain[f"{PATH}.gate_up_proj"][0, :INNER].norm(dim=1))
    tensors = noisy(model)
    assert [name for name in tensors if name.endswith(".s")] == [
        f"scaled.shared.{PATH}.expert_down.s"
    ]
    assert sum(name.endswith(".t") for name in tensors) == 3
    down, fused = (plain[f"{PATH}.{n}_proj"].detach().clone() for n in ("down", "gate_up"))
    s = tensors[f"scaled.shared.{PATH}.expert_down.s"].detach()
    for expert in range(3):
        t = tensors[f"scaled.{PATH}.expert_down.{expert}.t"].detach()
        down[expert] = t[:, None] * down[expert] * s
    A, B, m = (tensors[f"moved.{PATH}.expert_gate.0.{n}"].detach() for n in "ABm")
    V = fused[0, :INNER] + B @ A
    fused[0, :INNER] = (m / V.norm(dim=1))[:, None] * V
    wanted = answer(shallow(), {f"{PATH}.down_proj": down, f"{PATH}.gate_up_proj": fused})
    torch.testing.assert_close(answer(model), wanted, rtol=1e-4, atol=1e-5)


CONSTANT = """
method shifted() {
    param c[d_h] ~ zeros
    position expert.up
    composition h = h + c
}
"""


@pytest.mark.parametrize(
    ("spec", "options", "why"),
    [
        ("lora", {"at": "expert.up", "p": 0.5}, "`dropout` draws"),
        ("houlsby", {"at": "expert.down"}, "is not linear"),
        (CONSTANT, {}, "adds a constant"),
    ],
)
def test_what_is_no_change_of_weights_is_refused(
    spec: str, options: dict[str, Any], why: str
) -> None:
    with pytest.raises(PeftError, match=why) as caught:
        peftlang.compile(shallow(), spec, **options)
    assert caught.value.code == "S418"


EVERYWHERE = """
from lora import lora
from perft_e import perft_e
from houlsby import houlsby

adapter everywhere() {
    lora(r = 2) at expert.up, expert.gate, expert.down, router
    perft_e(r = 2) at ffn
    houlsby(r = 2) at block
}
"""


@pytest.mark.parametrize("implementation", ["eager", "batched_mm"])
def test_however_experts_run_their_adapters_do_the_same(implementation: str) -> None:
    """A loop over the experts that tokens were given to is no graph: its products are."""
    found = []
    for chosen in ("grouped_mm", implementation):
        model = shallow()
        model.set_experts_implementation(chosen)
        model = peftlang.compile(model, EVERYWHERE)
        tensors = noisy(model)
        made = answer(model)
        gradients = torch.autograd.grad(made.square().sum(), list(tensors.values()))
        assert all(gradient.abs().max() > 0 for gradient in gradients)
        assert model.get_experts_implementation()[""] == chosen
        with peftlang.disabled(model):
            base = answer(model)
        found.append((made, gradients, base))
    (made, gradients, base), (same, wanted, plain) = found
    torch.testing.assert_close(made, same, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(base, plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(made, base, atol=1e-2)
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class Looping(nn.Module):
    """Experts of which the first token's values say which one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 8), nn.Linear(8, 8)
        self.up, self.down = (nn.Parameter(torch.randn(2, 8, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        for expert in (h[0, 0] > 0).nonzero()[:, 0]:
            inside = nn.functional.linear(h, self.up[expert % 2]).relu()
            h = h + nn.functional.linear(inside, self.down[expert % 2])
        return self.head(h)  # type: ignore[no-any-return]


def test_experts_in_a_loop_of_the_models_own_are_said_to_be_taken_one_by_one() -> None:
    with pytest.raises(PeftError, match=r"`up` holds several experts") as caught:
        peftlang.compile(
            Looping(), "lora", at="expert.up", example_inputs={"x": torch.randn(2, 3, 8)}
        )
    assert caught.value.code == "S407"


SHARED = {
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 24},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "kv_lora_rank": 8,
        "first_k_dense_replace": 0,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
}


@pytest.mark.parametrize("kind", SHARED)
def test_a_shared_expert_is_of_the_whole_block(kind: str) -> None:
    """What all tokens read is added to what single experts make: `ffn` is both."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 512,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **(sizes | SHARED[kind]))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        hook = model.model.layers[0].mlp.register_forward_hook(lambda _m, _x, h: 0 * h)
        wanted = answer(model)
        hook.remove()
        base = answer(model)
    peftlang.compile(
        model, "method none() { param g ~ zeros\nposition ffn\ncomposition h = g * h }"
    )
    torch.testing.assert_close(answer(model), wanted)
    assert not torch.allclose(base, wanted, atol=1e-4)
    peftlang.remove(model, "default")
    peftlang.compile(model, "lora", at="expert.up, expert.gate, expert.down", r=2)
    tensors = noisy(model)
    assert len(tensors) == 3 * EXPERTS * 2
    assert not torch.allclose(answer(model), base, atol=1e-4)
