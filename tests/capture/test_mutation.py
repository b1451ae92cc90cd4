"""Which operands an operation writes into, and which values do not last for it."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn import functional

from peftlang.capture import CapturedGraph, record
from peftlang.capture.memory import OVERWRITTEN
from peftlang.capture.mutation import operands_written, written

A, B = torch.ones(2), torch.zeros(2)


@pytest.mark.parametrize(
    ("name", "function", "args", "kwargs", "found"),
    [
        ("add_", None, (A, 1), {}, [A]),
        ("__iadd__", None, (A, 1), {}, [A]),
        ("__setitem__", None, (A, 0, B), {}, [A]),
        ("setitem", operator.setitem, (A, 0, B), {}, [A]),
        ("iadd", operator.iadd, (A, B), {}, [A]),
        ("relu_", torch.relu_, (A,), {}, [A]),
        ("index_put_", None, (A, (B,), B), {}, [A]),
        ("copy_", None, (A, B), {}, [A]),
        ("add", torch.add, (A, 1), {"out": B}, [B]),
        ("max", torch.max, (A, 0), {"out": (A, B)}, [A, B]),
        ("relu", functional.relu, (A,), {"inplace": True}, [A]),
        ("relu", functional.relu, (A, True), {}, [A]),
        ("relu", functional.relu, (A, False), {}, []),
        ("dropout", functional.dropout, (A, 0.1, False, True), {}, [A]),
        ("normal_", nn.init.normal_, (A,), {}, [A]),
        ("add_.Tensor", torch.ops.aten.add_.Tensor, (A, B), {}, [A]),
        ("add", torch.add, (A, 1), {}, []),
        ("relu", torch.relu, (A,), {}, []),
        ("__add__", None, (A, 1), {}, []),
        ("and_", operator.and_, (A, B), {}, []),
        ("or_", operator.or_, (A, B), {}, []),
        ("not_", operator.not_, (A,), {}, []),
        ("is_", operator.is_, (A, B), {}, []),
    ],
)
def test_operands_that_are_written_into(
    name: str, function: Any, args: Any, kwargs: Any, found: list[Tensor]
) -> None:
    assert list(map(id, written(name, function, args, kwargs))) == list(map(id, found))


@pytest.mark.parametrize("function", [operator.and_, operator.or_, operator.not_, operator.is_])
def test_words_of_python_write_into_nothing(function: Callable[..., Any]) -> None:
    graph = Graph()
    one = graph.placeholder("one")
    operands = (one,) if function is operator.not_ else (one, one)
    assert operands_written(graph.call_function(function, operands)) == []


def test_lists_of_tensors_are_written_into() -> None:
    graph = Graph()
    one, other = graph.placeholder("one"), graph.placeholder("other")
    node = graph.call_function(torch._foreach_add_, ([one, other], 1))
    assert operands_written(node) == [one, other]


class Written(nn.Module):
    def __init__(self, write: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        self.write(y)
        return y + x


def value(captured: CapturedGraph) -> Node:
    return next(node for node in captured.graph.nodes if node.op == "call_method")


@pytest.mark.parametrize(
    ("write", "lasts"),
    [
        (lambda y: y.view(-1).add_(1), False),
        (lambda y: y[:, :1].zero_(), False),
        (lambda y: torch._foreach_add_([y], 1), False),
        (lambda y: torch.mul(y, 2, out=y[...]), False),
        (lambda y: y.detach().add_(1), False),
        (lambda y: y.clone().add_(1), True),
        (lambda y: (y + 1).relu_(), True),
    ],
)
def test_a_value_lasts_until_its_memory_is_written_into(
    write: Callable[[Tensor], Any], *, lasts: bool
) -> None:
    node = value(record(Written(write), {"x": torch.randn(2, 3)}))
    assert (OVERWRITTEN not in node.meta) == lasts
