"""Exact identities of methods that route, prompt or are conditioned, at one site, to rounding."""

from typing import Any

import pytest
import torch
from torch import Tensor

from peftlang.verifying.one_site import OneSite
from tests.methods.at_site import alike, at, named, same


def equal_rows(tensor: Tensor) -> Tensor:
    """The first of several experts' tensors in each one's place."""
    return tensor[:1].expand_as(tensor).clone()


# Routers and experts


def test_one_expert_of_mov_is_ia3() -> None:
    site = at("mov", "attn.k", E=1, sizes={"d_h": 6})
    alike(site, "ia3", "attn.k", given={"l": 1 + site.tensors["m"][0]}, sizes={"d_h": 6})


def test_one_expert_of_molora_is_lora() -> None:
    site = at("molora", E=1, r=3)
    alike(site, "lora", r=3, alpha=3.0, given={n: site.tensors[n][0] for n in "AB"})


def test_equal_experts_are_one() -> None:
    site = at("molora", E=4, r=3)
    site.tensors |= {name: equal_rows(site.tensors[name]) for name in "AB"}
    alike(site, "lora", r=3, alpha=3.0, given={n: site.tensors[n][0] for n in "AB"})
    vectors = at("mov", "attn.k", E=4, sizes={"d_h": 6})
    vectors.tensors["m"] = equal_rows(vectors.tensors["m"])
    given = {"l": 1 + vectors.tensors["m"][0]}
    alike(vectors, "ia3", "attn.k", given=given, sizes={"d_h": 6})


def test_all_of_the_experts_chosen_is_the_dense_mixture() -> None:
    site = at("perft", "ffn", M=4, k=4, r=3, alpha=3.0)
    alike(site, "molora", "ffn", E=4, r=3, given=site.tensors)


@pytest.mark.parametrize(
    ("spec", "args"),
    [("perft", {"M": 4, "k": 2}), ("pesc", {"E": 4, "k": 2}), ("perft_e", {"k": 2})],
)
def test_gates_of_those_that_are_kept_add_up_to_one(spec: str, args: dict[str, int]) -> None:
    site = at(spec, "ffn", r=3, **args)
    gates = named(site, "g")
    same(gates.sum(-1), torch.ones(2, 3).double())
    assert torch.equal((gates > 0).sum(-1), torch.full((2, 3), 2))


def test_one_expert_of_perft_is_a_shared_path() -> None:
    site = at("perft", "ffn", M=1, k=1, r=3, alpha=6.0)
    alike(site, "lora", "ffn", r=3, alpha=6.0, given={n: site.tensors[n][0] for n in "AB"})


def test_equal_paths_beside_experts_are_a_shared_path() -> None:
    site = at("perft_e", "ffn", k=2, r=3, alpha=6.0)
    site.tensors |= {name: equal_rows(site.tensors[name]) for name in "AB"}
    alike(site, "lora", "ffn", r=3, alpha=6.0, given={n: site.tensors[n][0] for n in "AB"})


def test_only_tokens_of_an_expert_reach_its_path() -> None:
    site = at("perft_e", "ffn", k=2, r=3, sizes={"batch": 1, "tokens": 1, "keys": 1})
    chosen = set(site.inputs["z"][0, 0].topk(2).indices.tolist())
    (gradient,) = torch.autograd.grad(site.run().h.square().sum(), [site.tensors["A"]])
    assert {e for e in range(len(gradient)) if bool(gradient[e].any())} == chosen


def test_one_expert_of_pesc_is_a_sequential_adapter_at_a_quarter() -> None:
    site = at("pesc", "ffn", E=1, k=1, r=4)
    plain = at("houlsby", "ffn", r=4)
    biases = {"b_d": torch.zeros(4).double(), "b_u": torch.zeros(12).double()}
    given = {"W_d": site.tensors["D"][0], "W_u": site.tensors["U"][0], **biases}
    whole = plain.run(tensors=given, leaves=site.leaves).h
    h = site.leaves["h"]
    same(site.run().h - h, 0.25 * (whole - h))


def test_styleinject_of_one_matrix_is_lora_and_a_sure_gate_chooses() -> None:
    site = at("styleinject", n=1, r=3)
    alike(site, "lora", r=3, alpha=3.0, given={"A": site.tensors["A"][0], "B": site.tensors["B"]})
    site = at("styleinject", n=3, r=3, sizes={"batch": 1})
    mean = site.leaves["x"].detach().mean(1)[0]
    site.tensors["R"] = torch.stack([-mean, 1e4 * mean, -mean])
    alike(
        site,
        "lora",
        r=3,
        alpha=3.0,
        sizes={"batch": 1},
        given={"A": site.tensors["A"][1], "B": site.tensors["B"]},
    )


# Conditions, generated weights


def conditioned(site: OneSite, **inputs: Tensor) -> Tensor:
    """What the site gives with these inputs of the call."""
    site.inputs |= inputs
    return site.run().h


def test_petalface_has_one_pair_at_each_end_and_their_mean_between() -> None:
    site = at("petalface", r=3)
    first, second = ({"A": site.tensors[f"A_{i}"], "B": site.tensors[f"B_{i}"]} for i in (1, 2))
    one, two = (
        at("lora", r=3, alpha=3.0).run(tensors=pair, leaves=site.leaves).h
        for pair in (first, second)
    )
    for quality, wanted in ((0.0, one), (1.0, two), (0.5, (one + two) / 2)):
        given = torch.full((2,), quality, dtype=torch.float64)
        same(conditioned(site, quality=given), wanted)
    stacked = {
        "A": torch.cat([first["A"], second["A"]]),
        "B": torch.cat([first["B"], second["B"]], 1) / 2,
    }
    alike(at_middle(), "lora", r=6, alpha=6.0, given=stacked)


def at_middle() -> OneSite:
    site = at("petalface", r=3)
    site.inputs["quality"] = torch.full((2,), 0.5, dtype=torch.float64)
    return site


def test_routing_by_ones_is_the_host_and_by_zeros_nothing() -> None:
    site = at("routing_lora", r=3, d_v=5)
    site.tensors["A_v"] = torch.ones(3, 1).double() * torch.eye(5).double()[:1]
    one = torch.zeros(2, 5).double()
    same(conditioned(site, v=one), site.values()["h"])
    one[:, 0] = 1
    site.inputs["v"] = one
    alike(site, "lora", r=3, given={n: site.tensors[n] for n in "AB"})


def tasks(*values: int) -> Tensor:
    return torch.tensor(values)


def test_what_hypernetworks_generate_is_a_plain_adapter() -> None:
    site = at("hyperformer", "ffn", r=4, t=3, tasks=3)
    site.inputs["task"] = tasks(2, 2)
    own = site.tensors
    code = torch.cat([own["z_task"][2], own["z_layer"][1]])
    down, up = (own["H_d"] @ code).view(4, 12), (own["H_u"] @ code).view(12, 4)
    biases = {"b_d": torch.zeros(4).double(), "b_u": torch.zeros(12).double()}
    alike(site, "houlsby", "ffn", r=4, act="relu", given={"W_d": down, "W_u": up, **biases})
    generated = [named(at_task("hyperformer", role, own, 2), "I") for role in ("attn", "ffn")]
    assert torch.equal(*generated)
    more = at("hyperformer", "ffn", r=4, t=3, tasks=4)
    count = [sum(t.numel() for t in each.trained.values()) for each in (site, more)]
    assert count[1] - count[0] == 3


def at_task(spec: str, role: str, tensors: dict[str, Tensor], task: int) -> OneSite:
    site = at(spec, role, r=4, t=3, tasks=3)
    site.tensors, site.inputs["task"] = tensors, tasks(task, task)
    return site


def test_one_network_makes_the_same_where_layer_and_position_are_the_same() -> None:
    args: dict[str, Any] = {"r": 4, "t": 3, "m": 5, "k": 2, "tasks": 3}
    site, other = (at("hyperformer_plus", role, **args) for role in ("attn", "ffn"))
    site.inputs["task"] = other.inputs["task"] = tasks(2, 2)
    other.tensors = site.tensors
    assert not torch.allclose(named(site, "I"), named(other, "I"))
    D, U, code = (named(site, name)[0] for name in "DUI")
    inner = {
        "W_d": D,
        "W_u": U,
        "b_d": site.tensors["H_d"] @ code,
        "b_u": site.tensors["H_u"] @ code,
    }
    plain, h = at("houlsby", "attn", r=4, act="silu"), site.leaves["h"]
    y = plain.run(tensors=inner, leaves=site.leaves).h - h
    gain, shift = site.tensors["H_g"] @ code, site.tensors["H_c"] @ code
    same(site.run().h, h + torch.nn.functional.layer_norm(y, [12], gain, shift))
    with torch.no_grad():
        site.tensors["e_p"][1] = site.tensors["e_p"][0]
    for name in "DUI":
        assert torch.equal(named(site, name), named(other, name))
    more = at("hyperformer_plus", "attn", **{**args, "tasks": 4})
    count = [sum(t.numel() for t in each.trained.values()) for each in (site, more)]
    assert count[1] - count[0] == args["t"]


@pytest.mark.parametrize(
    ("spec", "width"),
    [("polyhistor", {}), ("polyhistor_lite", {"d": 12}), ("polyhistor_lite", {"d": 4})],
)
def test_what_polyhistor_generates_is_a_plain_adapter(spec: str, width: dict[str, int]) -> None:
    """With d the layer's own width the scale is 1: one generated matrix, times a number."""
    site = at(spec, "ffn", n=2, p=2, t=3, tasks=3, **width)
    site.inputs["task"] = tasks(1, 1)
    down, up = (named(site, name)[0] for name in "DU")
    inner = 2 * 12 // width.get("d", 12)
    assert down.shape == (inner, 12)
    biases = {"b_d": torch.zeros(inner).double(), "b_u": torch.zeros(12).double()}
    alike(site, "houlsby", "ffn", r=inner, act="relu", given={"W_d": down, "W_u": up, **biases})


def test_one_task_of_vl_adapter_is_an_adapter_and_tasks_share_the_rest() -> None:
    site = at("vl_adapter", "ffn", r=4, tasks=3)
    site.inputs["task"] = tasks(1, 1)
    biases = {"b_d": torch.zeros(4).double(), "b_u": torch.zeros(12).double()}
    given = {"W_d": site.tensors["D"], "W_u": site.tensors["U"][1], **biases}
    alike(site, "houlsby", "ffn", r=4, given=given)
    shared, own = torch.autograd.grad(site.run().h.square().sum(), [site.tensors[n] for n in "DU"])
    assert bool(shared.any())
    assert [bool(own[task].any()) for task in range(3)] == [False, True, False]


# Prompts and prefixes


def test_control_tokens_stand_before_a_plain_prefix() -> None:
    site = at("control_prefixes", "attn.core", l=3, c=2, labels=3, e=4, m=5)
    site.inputs["label"] = tasks(1, 1)
    own = dict(site.tensors)
    rows = torch.cat([own.pop("E_c")[1], own.pop("E_g")])
    alike(site, "prefix_mlp", "attn.core", l=5, e=4, m=5, given={"E": rows, **own})


def test_rows_with_labels_of_their_own_are_each_alone() -> None:
    site = at("control_prefixes", "attn.core", l=3, c=2, labels=3, e=4, m=5)
    mixed = conditioned(site, label=tasks(0, 2))
    for row, label in enumerate((0, 2)):
        same(conditioned(site, label=tasks(label, label))[row], mixed[row])


def test_a_label_of_meet_trains_its_own_prompt_and_equal_ones_are_one() -> None:
    site = at("meet", "prompt", l=2, labels=3)
    found = conditioned(site, label=tasks(2, 0))
    (gradient,) = torch.autograd.grad(found.square().sum(), [site.tensors["P"]])
    assert [bool(gradient[label].any()) for label in range(3)] == [True, False, True]
    swapped = conditioned(site, label=tasks(0, 2))
    same(swapped[:, :2], found[:, :2].flip(0))
    site.tensors["P"] = equal_rows(site.tensors["P"])
    alike(site, "prompt_tuning", "prompt", l=2, given={"P": site.tensors["P"][0]})


def test_pasta_touches_special_tokens_alone() -> None:
    site = at("pasta", "block", n=2, cls=3, sep=5, sizes={"tokens": 6, "keys": 6})
    change = site.run().targets["x"] - site.leaves["x"]
    ids = site.tokens.ids
    special = (ids == 3) | (ids == 5)
    assert bool(special.any())
    assert not bool(special.all())
    assert not bool(change[~special].any())
    for row in range(2):
        places = special[row].nonzero().flatten()[:2]
        same(change[row, places], site.tensors["V"][: len(places)])


def test_without_its_own_part_each_layer_of_mmrl_has_the_towers_projector() -> None:
    site = at("mmrl", "block", use=1, l=2, d_r=5, rank=2)
    site.tensors |= {"B": torch.zeros(2, 5).double()}
    before = named(site, "t")
    site.tensors["A"] = torch.randn(12, 2).double()
    same(named(site, "t"), before)
    same(before, site.tensors["R"] @ site.tensors["P"].T + site.tensors["b"])


# Streams, losses


def test_bridges_without_their_last_map_leave_both_streams() -> None:
    for use in (0, 1):
        site = at("bridger", "block", use=use, m=2, e=3)
        assert not torch.equal(site.run().h, site.leaves["h"])
        site.tensors["U"] = torch.zeros_like(site.tensors["U"])
        assert torch.equal(site.run().h, site.leaves["h"])


def test_the_two_ways_of_a_bridge_are_the_same_map() -> None:
    one, other = (at("bridger", "block", use=use, m=2, e=3) for use in (0, 1))
    other.tensors = one.tensors
    other.inputs = {"c": one.inputs["c"], "v": one.inputs["t"]}
    same(other.run().h, one.run().h)


def test_a_connected_adapter_leaves_the_base_and_passes_gradients_by_it() -> None:
    site = at("iaa", "block", r=3)
    (direct,) = torch.autograd.grad(
        site.run().targets["s"].sum(), [site.inputs["s"]], retain_graph=True
    )
    site.tensors["U"] = torch.zeros_like(site.tensors["U"])
    (alone,) = torch.autograd.grad(site.run().targets["s"].sum(), [site.inputs["s"]])
    same(alone, torch.ones_like(alone))
    assert not torch.equal(direct, alone)
    site.inputs["s"] = torch.zeros_like(site.inputs["s"])
    same(site.run().h, site.leaves["h"])


def test_uniadapter_of_one_stream_is_a_parallel_adapter_behind_a_norm() -> None:
    site = at("uniadapter", "ffn", r=4)
    own, resid = site.tensors, site.leaves["resid"]
    y = torch.nn.functional.layer_norm(resid, [12], own["g"], own["c"])
    plain = at("parallel_adapter", "ffn", r=4, s=0.1)
    biases = {"b_d": torch.zeros(4).double(), "b_u": torch.zeros(12).double()}
    given = {"W_d": own["D"], "W_u": own["U"], **biases}
    same(plain.run(tensors=given, leaves={**site.leaves, "x": y}).h, site.run().h)


def test_the_density_of_deft_is_the_share_that_is_not_zero() -> None:
    h = torch.relu(at("deft", "ffn.act", use=1).leaves["h"].detach()).requires_grad_()

    def term(values: Tensor, eps: float, w: float = 1.0) -> Tensor:
        there = at("deft", "ffn.act", use=1, eps=eps, w=w)
        assert not there.placed.method.compositions
        (expr,) = there.placed.method.penalties
        interpret = there.expressions({**there.leaves, "h": values})
        found: Tensor = interpret(expr)
        return found

    share = (h > 0).double().mean(-1) / 2
    same(term(h, 1e-30), share)
    (gradient,) = torch.autograd.grad(term(h, 0.1).sum(), [h])
    same(gradient, 2 * h * 0.1 / (h * h + 0.1) ** 2 / h.shape[-1] / 2)
    same(term(h, 0.1, w=0.0), torch.zeros(2, 3).double())
