"""Roles in modules that no library knows, each with a twist of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from peftlang.ir.plan import Site
from peftlang.sites.containers import modules
from peftlang.sites.inference import find_sites
from peftlang.sites.missing import found_instead
from tests.roles.running import made, positions, recorded

X = torch.zeros(2, 7, 32)


def by_role(model: nn.Module, **inputs: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for site in positions(model.eval(), inputs):
        found.setdefault(site.role, []).append(site.path)
    return found


class Attention(nn.Module):
    def __init__(self, width: int = 32, kv: int = 32) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(width, 32), nn.Linear(kv, 32), nn.Linear(kv, 32)
        self.d = nn.Linear(32, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = (
            f(z).unflatten(-1, (4, 8)).transpose(1, 2)
            for f, z in ((self.a, x), (self.b, y), (self.c, y))
        )
        h = functional.scaled_dot_product_attention(q, k, v)
        return self.d(h.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_latents_that_look_at_an_input_cross_attend() -> None:
    class Latents(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents = nn.Parameter(torch.zeros(3, 32))
            self.start = nn.Linear(32, 32)
            self.reads, self.thinks = Attention(kv=20), Attention()

        def forward(self, pixels: Tensor) -> Tensor:
            z = self.start(self.latents).expand(2, -1, -1) + pixels.mean() * 0
            z = z + self.reads(z, pixels)
            return z + self.thinks(z, z)  # type: ignore[no-any-return]

    found = by_role(Latents(), pixels=torch.zeros(2, 7, 20))
    assert found["cross_attn.k"] == ["reads.b"]
    assert found["attn.k"] == ["thinks.b"]


def test_positions_added_to_queries_and_keys_alone_are_still_self_attention() -> None:
    class Shifted(Attention):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            q, k, v = (
                f(z).unflatten(-1, (4, 8)).transpose(1, 2)
                for f, z in ((self.a, x + y), (self.b, x + y), (self.c, x))
            )
            h = functional.scaled_dot_product_attention(q, k, v)
            return x + self.d(h.transpose(1, 2).flatten(2))

    found = by_role(Shifted(), x=X, y=X)
    assert found["attn.q"] == ["a"]
    assert found["attn.v"] == ["c"]
    assert "cross_attn.q" not in found


def test_two_products_in_one_module_are_two_sites() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            names = ("q1", "k1", "v1", "o1", "q2", "k2", "v2", "o2")
            for name in names:
                setattr(self, name, nn.Linear(32, 32))

        def attend(self, x: Tensor, i: int) -> Tensor:
            q, k, v = (
                getattr(self, f"{n}{i}")(x).unflatten(-1, (4, 8)).transpose(1, 2) for n in "qkv"
            )
            h = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return getattr(self, f"o{i}")(h)  # type: ignore[no-any-return]

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attend(x, 1)
            return x + self.attend(x, 2)

    found = by_role(Two(), x=X)
    assert len(found["attn.core"]) == len(found["attn"]) == 2
    assert found["attn.q"] == ["q1", "q2"]


class Mlp(nn.Module):
    """x + down(mix(gate(x), up(x)))."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        wide = 2 * 88 if kind == "glu" else 88
        self.one, self.two = nn.Linear(32, wide), nn.Linear(32, 88)
        self.down = nn.Linear(88, 32)
        self.scale = nn.Parameter(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "glu":
            inner = functional.glu(self.one(x))
        elif self.kind == "swapped":
            inner = self.one(x) * torch.sigmoid(self.two(x))
        elif self.kind == "bilinear":
            inner = self.one(x) * self.two(x)
        elif self.kind == "squared":
            inner = torch.relu(self.one(x)) ** 2
        else:
            inner = self.one(x)
        return x + self.scale * self.down(inner)


def test_layer_scale_belongs_to_the_branch() -> None:
    (ffn,) = (s for s in positions(Mlp("squared").eval(), {"x": X}) if s.role == "ffn")
    assert ffn.anchors == ("down.weight",)


@pytest.mark.parametrize(
    ("kind", "up", "gate"),
    [
        ("squared", ["one"], None),
        ("swapped", ["one"], ["two"]),
        ("glu", ["one"], ["one"]),
        ("bilinear", ["two"], ["one"]),
    ],
)
def test_kinds_of_gates(kind: str, up: list[str], gate: list[str] | None) -> None:
    found = by_role(Mlp(kind), x=X)
    assert found["ffn.up"] == up
    assert found.get("ffn.gate") == gate
    assert found["ffn.down"] == found["ffn.act"] == ["down"]


def test_two_projections_in_a_row_are_no_feed_forward_branch() -> None:
    found = by_role(Mlp("linear"), x=X)
    assert not any(role.startswith("ffn") for role in found)
    assert set(found["linear"]) >= {"one", "down"}


def test_mixing_tokens_is_no_feed_forward_branch() -> None:
    class Convolves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(32, 88), nn.Linear(88, 32)
            self.conv = nn.Conv1d(88, 88, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            inner = self.conv(torch.relu(self.up(x)).transpose(1, 2)).transpose(1, 2)
            return x + self.down(inner)  # type: ignore[no-any-return]

    found = by_role(Convolves(), x=X)
    assert not any(role.startswith("ffn") for role in found)


def test_a_norm_spelled_out_with_its_mean() -> None:
    class Spelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.shift = nn.Parameter(torch.ones(32)), nn.Parameter(torch.zeros(32))

        def forward(self, x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            size = centred.pow(2).mean(-1, keepdim=True)
            return self.gain * (centred / (size + 1e-6).sqrt()) + self.shift

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = Spelled(), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(x * 1.5))  # type: ignore[no-any-return]

    (norm,) = (s for s in positions(Model().eval(), {"x": X}) if s.role == "norm")
    assert (norm.path, norm.weight, norm.bias) == ("norm", "norm.gain", "norm.shift")


def test_projections_by_matmul_with_a_bias_added() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(torch.zeros(32, 5)), nn.Parameter(torch.zeros(5))
            self.t = nn.Parameter(torch.zeros(32, 32))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.t.T) @ self.w + self.b

    found = {s.weight: s for s in positions(Raw().eval(), {"x": X}) if s.role in {"linear", "head"}}
    assert (found["w"].role, found["w"].bias, found["w"].transposed) == ("head", "b", True)
    assert (found["t"].role, found["t"].transposed) == ("linear", False)


def test_token_embedding_is_told_from_positions_and_types() -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.types, self.tokens = nn.Embedding(2, 32), nn.Embedding(160, 32)
            self.places = nn.Embedding(500, 32)
            self.head = nn.Linear(32, 3)

        def forward(self, ids: Tensor, kinds: Tensor) -> Tensor:
            places = self.places(torch.arange(ids.shape[1]))
            return self.head(self.types(kinds) + self.tokens(ids) + places)  # type: ignore[no-any-return]

    ids = torch.ones(2, 7, dtype=torch.long)
    assert by_role(Embeds(), ids=ids, kinds=ids)["embed"] == ["tokens"]


def test_containers_have_sites_of_their_own() -> None:
    model, sites = made("tiny-llama")
    graph = recorded(model, {"input_ids": torch.ones(2, 7, dtype=torch.long)})
    found: list[Site] = modules(graph, sites)
    assert [site.path for site in found] == [
        f"model.layers.{i}.{name}" for i in (0, 1) for name in ("self_attn", "mlp")
    ]
    assert {(s.stack, s.side, s.dims["d_h"]) for s in found} == {("model.layers", "decoder", 32)}


def test_what_there_is_instead_of_a_role() -> None:
    class Bare(nn.Module):
        """Attention with no projections at all."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(160, 32), nn.Linear(32, 3)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids).unflatten(-1, (4, 8)).transpose(1, 2)
            h = functional.scaled_dot_product_attention(x, x, x)
            return self.head(h.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    graph = recorded(Bare().eval(), {"ids": torch.ones(2, 7, dtype=torch.long)})
    sites = find_sites(graph)
    assert not any(site.role.startswith("attn") for site in sites)
    assert "no projection makes its `q`" in found_instead("attn.q", graph, sites)

    _, sites = made("tiny-mixtral")
    assert "experts.down_proj" in found_instead("ffn.up", graph, sites)
    assert found_instead("cross_attn.q", graph, sites) == ""
