"""What a method reads is what was there, although the model writes into its memory afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import peftlang
from peftlang.diagnostics import PeftError

Write = Callable[[Tensor], Any]


def added(y: Tensor) -> None:
    y += 1


def item(y: Tensor) -> None:
    y[..., 0] = 3.0


WRITES: dict[str, Write] = {
    "add_": lambda y: y.add_(1),
    "+=": added,
    "setitem": item,
    "torch.relu_": torch.relu_,
    "out=": lambda y: torch.add(y, 1, out=y),
    "index_put_": lambda y: y.index_put_((torch.tensor([0]),), torch.ones(())),
    "inplace": lambda y: functional.relu(y, inplace=True),
    "a view": lambda y: y.view(-1).add_(1),
    "a part": lambda y: y[:, :1].zero_(),
    "a list": lambda y: torch._foreach_add_([y], 1),
    "nothing": lambda y: None,
}
x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))


class Layer(nn.Module):
    """What its projection reads, or makes, is written into."""

    def __init__(self, write: Write, into: str) -> None:
        super().__init__()
        self.f, self.write, self.into = nn.Linear(8, 8), write, into

    def forward(self, x: Tensor) -> Tensor:
        h = self.f(x)
        self.write(h if self.into == "h" else x)
        return h + x


class Net(nn.Module):
    def __init__(self, write: Write, into: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer(write, into), Layer(write, into)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x * 2)
        return x


class Attention(nn.Module):
    def __init__(self, write: Write) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(2, 4, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        h = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        self.write(h)
        return self.o(h.transpose(1, 2).reshape(2, 4, 8))


class Attending(nn.Module):
    def __init__(self, write: Write) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Attention(write), Attention(write)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.fixture(autouse=True)
def without_gradients_where_torch_has_none(request: pytest.FixtureRequest) -> Iterator[None]:
    """What writes by `out=` takes no part in differentiation."""
    with torch.set_grad_enabled("out=" not in request.node.name):
        yield


def adapted(model: nn.Module, *specs: str) -> tuple[nn.Module, list[nn.Parameter]]:
    for number, spec in enumerate(specs):
        peftlang.compile(model.eval(), spec, example_inputs={"x": x}, adapter_name=f"a{number}")
    found = [list(one.parameters().values()) for one in peftlang.adapters(model).values()]
    return model, [parameter for one in found for parameter in one]


def held(model: nn.Module, g: list[nn.Parameter], want: Tensor) -> None:
    """Output and gradients are those of the equation."""
    with torch.set_grad_enabled(want.requires_grad):
        got = model(x=x)
    torch.testing.assert_close(got, want)
    if not want.requires_grad:
        return
    grads = (torch.autograd.grad(made.square().mean(), g) for made in (got, want))
    for mine, its in zip(*grads, strict=True):
        torch.testing.assert_close(mine, its)


def linear(f: Any, z: Tensor) -> Tensor:
    return functional.linear(z, f.weight, f.bias)


each = pytest.mark.parametrize("name", WRITES)


@each
@pytest.mark.parametrize("into", ["h", "x"])
def test_a_tap(name: str, into: str) -> None:
    spec = f"""method m {{
        param g[d_h] ~ ones
        tap   s[d_h] = "layers.0.f".{into}
        position    "layers.1.f"
        composition h = h + g * s
    }}"""
    write = WRITES[name]
    model, g = adapted(Net(write, into), spec)
    y, tapped = x, x
    for number, layer in enumerate(model.layers):
        z = y * 2
        h = linear(layer.f, z)
        tapped = tapped if number else (h if into == "h" else z).clone()
        h = h + g[0] * tapped if number else h.clone()
        write(h if into == "h" else z)
        y = h + z
    held(model, g, y)


@each
def test_a_carried_state_and_a_change_before_it(name: str) -> None:
    spec = """method m {
        param g[d_h] ~ ones
        carry s[d_h] ~ zeros
        position    "layers.*.f"
        composition h = 2 * h + g * s
        composition s = h
    }"""
    write = WRITES[name]
    model, g = adapted(Net(write, "h"), spec)
    y, state = x, torch.zeros(8)
    for number, layer in enumerate(model.layers):
        z = y * 2
        old = linear(layer.f, z)
        h = 2 * old + g[number] * state
        state = old.clone()
        write(h)
        y = h + z
    held(model, g, y)


@each
def test_what_goes_into_a_module_is_read_when_it_is_done(name: str) -> None:
    spec = """method m {
        param g[d_h, d_x] ~ ones
        position    "layers.0", "layers.1"
        composition h = h + g @ x
    }"""
    write = WRITES[name]
    model, g = adapted(Net(write, "x"), spec)
    y = x
    for number, layer in enumerate(model.layers):
        z = y * 2
        before, h = z.clone(), linear(layer.f, z.clone())
        write(z)
        y = h + z + before @ g[number].T
    held(model, g, y)


@each
def test_what_changes_between_operations_is_what_the_model_writes_into(name: str) -> None:
    if name == "a view":
        pytest.skip("what an attention product makes has no such view")
    spec = """method m {
        param g[heads, d_head] ~ ones
        carry s[heads, d_head] ~ zeros
        position    attn.core
        composition h = 2 * h + g * s
        composition s = h
    }"""
    write = WRITES[name]
    model, g = adapted(Attending(write), spec)
    y, state = x, torch.zeros(2, 1, 4)
    for number, layer in enumerate(model.layers):
        made = (linear(f, y) for f in (layer.q, layer.k, layer.v))
        q, k, v = (part.view(2, 4, 2, 4).transpose(1, 2) for part in made)
        old = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        h = 2 * old + g[number].unsqueeze(1) * state
        state = old.clone()
        write(h)
        y = y + linear(layer.o, h.transpose(1, 2).reshape(2, 4, 8))
    held(model, g, y)


@pytest.mark.parametrize("name", [name for name in WRITES if name != "nothing"])
def test_what_is_read_ahead_is_refused(name: str) -> None:
    spec = """method m {
        param g[d_x] ~ ones
        tap   s[d_x] = "layers.1".h
        position    "layers.0.f"
        composition x = x + g * s
    }"""

    class Beside(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            return self.layers[0](y) + self.layers[1](y * 3)

    with pytest.raises(PeftError) as error:
        adapted(Beside(WRITES[name], "h"), spec)[0](x=x)
    assert error.value.code == "S417"
