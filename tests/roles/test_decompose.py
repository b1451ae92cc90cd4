"""`torch.nn.MultiheadAttention` written out computes what it did, in all its forms."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from peftlang.capture import record
from peftlang.dataflow.multihead import write_out
from peftlang.diagnostics import PeftError
from peftlang.sites.inference import find_sites
from tests.roles.running import computed, recorded

MASKS = [None, "bool", "float", "3d", "causal"]
FORMS = [
    (first, weights, mask, padding)
    for first, weights, mask, padding in product([True, False], [True, False], MASKS, [0, 1])
    if not (mask == "causal" and padding)
]
SOURCES = ["self", "cross", "separate"]


class Attends(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, dropout=0.3, **options)

    def forward(self, q: Any, k: Any, v: Any, **options: Any) -> Any:
        return self.attention(q, k, v, **options)


def masks(kind: str | None, padding: int, tokens: int, keys: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if kind == "bool":
        options["attn_mask"] = torch.eye(tokens, keys).flip(0).bool()
    elif kind == "float":
        options["attn_mask"] = torch.randn(tokens, keys)
    elif kind == "3d":
        options["attn_mask"] = torch.randn(2 * 4, tokens, keys)
    elif kind == "causal":
        options |= {"attn_mask": torch.ones(tokens, keys).triu(1).bool(), "is_causal": True}
    if padding:
        padded = torch.zeros(2, keys, dtype=torch.bool)
        padded[0, -2:] = True
        as_float = kind in {"float", "3d"}
        options["key_padding_mask"] = padded.float() * -3 if as_float else padded
    return options


def both(model: Attends, inputs: Any, options: dict[str, Any]) -> list[Any]:
    """The module's own answer, and the written-out graph's, with the same dropout."""
    given = dict(zip("qkv", inputs, strict=True)) | options
    graph = record(model, given, training=model.training)
    assert write_out(graph.graph, graph.calls)
    torch.manual_seed(3)
    own = model(*inputs, **options)
    torch.manual_seed(3)
    return [own, computed(graph, model, given)[0]]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("first", "weights", "mask", "padding"), FORMS)
def test_the_same_numbers(
    first: bool, weights: bool, mask: str | None, padding: int, source: str
) -> None:
    torch.manual_seed(0)
    wide = {"kdim": 20, "vdim": 24} if source == "separate" else {}
    model = Attends(batch_first=first, **wide).train(mask != "float")
    keys = 5 if source == "self" or mask == "causal" else 7
    q = torch.randn(2, 5, 32)
    k = torch.randn(2, keys, wide.get("kdim", 32))
    v = torch.randn(2, keys, wide.get("vdim", 32))
    inputs = (q, q, q) if source == "self" else (q, k, v)
    if not first:
        turned = {id(t): t.transpose(0, 1).contiguous() for t in inputs}
        inputs = tuple(turned[id(t)] for t in inputs)  # type: ignore[assignment]
    options = masks(mask, padding, 5, keys) | {"need_weights": weights}
    (own, own_weights), (written, written_weights) = both(model, inputs, options)
    torch.testing.assert_close(written, own, rtol=1e-5, atol=1e-6)
    assert (own_weights is None) == (written_weights is None)
    if own_weights is not None:
        torch.testing.assert_close(written_weights, own_weights, rtol=1e-5, atol=1e-6)


def test_one_sequence_without_a_batch() -> None:
    q = torch.randn(5, 32)
    (own, _), (written, _) = both(Attends().eval(), (q, q, q), {})
    torch.testing.assert_close(written, own)


def test_roles_of_cross_attention_are_rows_of_the_packed_weight() -> None:
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 88, batch_first=True), 1)
    inputs = {"tgt": torch.zeros(2, 5, 32), "memory": torch.zeros(2, 7, 32)}
    found = {site.role: site for site in find_sites(recorded(model.eval(), inputs))}
    for position, part in enumerate("qkv"):
        for kind, owner in (("attn", "self_attn"), ("cross_attn", "multihead_attn")):
            site = found[f"{kind}.{part}"]
            assert site.weight == f"layers.0.{owner}.in_proj_weight"
            assert site.rows is not None
            assert site.rows.contiguous == (32 * position, 32 * position + 32)


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_what_has_no_projections_is_refused(option: str) -> None:
    model = Attends(**{option: True}).eval()
    q = torch.zeros(5, 2, 32)
    graph = record(model, {"q": q, "k": q, "v": q})
    with pytest.raises(PeftError) as caught:
        write_out(graph.graph, graph.calls)
    assert caught.value.code == "S407"


def test_a_graph_without_it_is_left_alone() -> None:
    graph = record(nn.Linear(3, 3), {"input": torch.zeros(2, 3)})
    before = str(graph.graph)
    assert not write_out(graph.graph, graph.calls)
    assert str(graph.graph) == before
