"""Where weights are used: projections, norms, embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from peftlang.capture.facts import VALUE
from peftlang.dataflow.flow import Flow, shape_of
from peftlang.dataflow.ops import CASTS, VIEWS, is_matmul, name_of

# Where a matrix may be turned around on its way from the parameter to the product.
_TURNS = frozenset({"t", "transpose", "permute", "getattr"})


@dataclass(frozen=True)
class WeightUse:
    """One node that applies a weight.

    kind: ``projection``, ``norm`` or ``embed``, or ``expert`` of several that one weight holds.
    x, h: what goes in and what comes out, with batch and tokens unflattened where the graph
        flattens them just for this use.
    weight, bias: parameter names; w, b: their nodes.
    first, last: the node that reads `x`, and the one that computes (`call`).
    rows: (start, stop) where the graph takes these rows out of the parameter first.
    """

    kind: str
    call: Node
    x: Node
    h: Node
    weight: str
    w: Node
    bias: str | None = None
    b: Node | None = None
    reader: Node | None = None
    transposed: bool = False
    rows: tuple[int, int] | None = None

    @property
    def width(self) -> int:
        """Number of features of `h`."""
        shape = shape_of(self.w)
        if self.kind == "expert":
            return int(shape[-1] if self.transposed else shape[-2])
        if self.kind == "projection" and not self.transposed and self.rows:
            return self.rows[1] - self.rows[0]
        return int(shape[-1] if self.transposed or self.kind == "embed" else shape[0])


def weight_uses(flow: Flow) -> list[WeightUse]:
    """Every use of a weight, in the order of the graph."""
    return [use for node in flow.order for use in _uses_at(flow, node)]


def _uses_at(flow: Flow, node: Node) -> Iterator[WeightUse]:
    name = name_of(node)
    found: WeightUse | None = None
    if name == "linear":
        found = _linear(flow, node)
    elif name == "addmm":
        found = _addmm(flow, node)
    elif is_matmul(node):
        found = _matmul(flow, node)
    elif name in {"layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm"}:
        found = _norm_call(flow, node, name)
    elif name == "mul":
        found = _spelled_norm(flow, node)
    elif name == "embedding":
        found = _embedding(flow, node)
    elif name in {"conv1d", "conv2d", "conv3d"}:
        found = _convolution(flow, node)
    if found:
        yield found


def operand(node: Node, position: int, *keywords: str) -> Node | None:
    """An operand by position or keyword; None where it is absent or no node."""
    value = node.args[position] if position < len(node.args) else None
    for keyword in keywords:
        value = node.kwargs.get(keyword, value)
    return value if isinstance(value, Node) else None


@dataclass(frozen=True)
class _Matrix:
    node: Node
    name: str
    turned: bool
    rows: tuple[int, int] | None


def _matrix(flow: Flow, node: Node | None, dims: int = 2) -> _Matrix | None:
    """The parameter that an operand is, through casts, turns and a slice of its rows."""
    turned, rows = False, None
    while node is not None and not flow.is_weight(node):
        name = name_of(node)
        if name in _TURNS and len(shape_of(node)) == 2:
            turned = not turned
        elif name == "getitem" and _row_slice(node) and rows is None and not turned:
            rows = _row_slice(node)
        elif name not in CASTS:
            return None
        node = flow.operands[node][0] if flow.operands[node] else None
    if node is None or len(shape_of(node)) != dims:
        return None
    parameter = flow.facts.parameter_of(node)
    return _Matrix(node, parameter, turned, rows) if parameter else None


def _row_slice(node: Node) -> tuple[int, int] | None:
    index = node.args[1]
    source = node.args[0]
    if isinstance(index, slice) and index.step in {None, 1} and isinstance(source, Node):
        size = shape_of(source)[0] if shape_of(source) else 0
        start, stop, _ = index.indices(int(size))
        return (start, stop)
    return None


def _bias(flow: Flow, node: Node | None) -> tuple[str | None, Node | None]:
    found = _matrix(flow, node, dims=1)
    return (found.name, found.node) if found else (None, None)


def _linear(flow: Flow, node: Node) -> WeightUse | None:
    x, weight = operand(node, 0, "input"), _matrix(flow, operand(node, 1, "weight"))
    if x is None or weight is None:
        return None
    bias, b = _bias(flow, operand(node, 2, "bias"))
    return _projection(flow, node, x, weight, weight.turned, bias, b)


def _addmm(flow: Flow, node: Node) -> WeightUse | None:
    x, weight = operand(node, 1, "mat1"), _matrix(flow, operand(node, 2, "mat2"))
    if x is None or weight is None:
        return None
    bias, b = _bias(flow, operand(node, 0, "input"))
    return _projection(flow, node, x, weight, not weight.turned, bias, b)


def _matmul(flow: Flow, node: Node) -> WeightUse | None:
    x, weight = operand(node, 0, "input"), _matrix(flow, operand(node, 1, "other", "mat2"))
    if x is None or weight is None:
        return None
    readers = flow.readers[node]
    if len(readers) == 1 and name_of(readers[0]) == "add":
        for value in readers[0].all_input_nodes:
            bias, b = _bias(flow, value)
            if bias:
                found = _projection(flow, node, x, weight, not weight.turned, bias, b)
                return _with(found, h=readers[0])
    return _projection(flow, node, x, weight, not weight.turned, None, None)


def _with(use: WeightUse, *, h: Node) -> WeightUse:
    from dataclasses import replace

    return replace(use, h=h)


def _projection(
    flow: Flow,
    call: Node,
    x: Node,
    weight: _Matrix,
    transposed: bool,
    bias: str | None,
    b: Node | None,
) -> WeightUse:
    x, h, reader = _unflattened(flow, call, x)
    return WeightUse(
        "projection",
        call,
        x,
        h,
        weight.name,
        weight.node,
        bias,
        b,
        reader,
        transposed,
        weight.rows,
    )


def _unflattened(flow: Flow, call: Node, x: Node) -> tuple[Node, Node, Node]:
    """(x, h, reader of x) outside a pair of reshapes that only serve `call`."""
    before, after = x, flow.readers[call]
    if (
        len(shape_of(before)) == 2
        and name_of(before) in {"view", "reshape", "flatten"}
        and flow.readers[before] == [call]
        and len(after) == 1
        and name_of(after[0]) in {"view", "reshape", "unflatten"}
    ):
        outer, back = flow.operands[before][0], after[0]
        if len(shape_of(outer)) == len(shape_of(back)) > 2:
            return outer, back, before
    return x, call, call


def _norm_call(flow: Flow, node: Node, name: str) -> WeightUse | None:
    x = operand(node, 0, "input")
    at = {"layer_norm": (2, 3), "rms_norm": (2, 9), "group_norm": (2, 3)}.get(name, (3, 4))
    weight = _matrix(flow, operand(node, at[0], "weight"), dims=1)
    if x is None or weight is None:
        return None
    bias, b = _bias(flow, operand(node, at[1], "bias"))
    return WeightUse("norm", node, x, node, weight.name, weight.node, bias, b, node)


def _spelled_norm(flow: Flow, node: Node) -> WeightUse | None:
    """``weight * x / size(x)``, where size is some mean over x itself."""
    pair = node.all_input_nodes
    if len(pair) != 2:
        return None
    for scaled, gain in (pair, pair[::-1]):
        weight = _gain(flow, gain)
        x = weight and _normalised(flow, scaled)
        if weight and x:
            return _norm_with_bias(flow, node, x, weight)
    return None


def _gain(flow: Flow, node: Node) -> _Matrix | None:
    """A vector parameter, as it is or one more than it is."""
    inner = flow.source(node, CASTS)
    if name_of(inner) == "add" and len(inner.all_input_nodes) == 1:
        inner = inner.all_input_nodes[0]
    return _matrix(flow, inner, dims=1)


def _normalised(flow: Flow, node: Node) -> Node | None:
    """x, if `node` is x times (or over) a number made by a reduction of x."""
    node = flow.source(node, CASTS)
    if name_of(node) not in {"mul", "div"} or len(flow.operands[node]) != 2:
        return None
    first, second = node.all_input_nodes
    pairs = [(first, second)] if name_of(node) == "div" else [(first, second), (second, first)]
    for x, size in pairs:
        centre = flow.source(x, CASTS)
        if name_of(centre) == "sub":
            centre = flow.source(centre.all_input_nodes[0], CASTS)
        if _reduces(flow, size, centre):
            return centre
    return None


def _reduces(flow: Flow, size: Node, x: Node, depth: int = 10) -> bool:
    """Whether `size` has one number per token and is made from `x` alone, a few steps away."""
    if not shape_of(size) or shape_of(size)[-1] != 1 or shape_of(size) == shape_of(x):
        return False
    node: Node | None = size
    for _ in range(depth):
        if node is x:
            return True
        live = [o for o in flow.operands[node] if o in flow.live] if node else []
        if not live:
            return False
        node = x if x in live else live[0]
    return False


def _norm_with_bias(flow: Flow, node: Node, x: Node, weight: _Matrix) -> WeightUse:
    h, bias, b = node, None, None
    if len(flow.readers[h]) == 1 and name_of(flow.readers[h][0]) == "add":
        add = flow.readers[h][0]
        for value in add.all_input_nodes:
            bias, b = _bias(flow, value)
            if bias:
                h = add
                break
    while len(flow.readers[h]) == 1 and name_of(flow.readers[h][0]) in CASTS:
        h = flow.readers[h][0]
    return WeightUse("norm", node, x, h, weight.name, weight.node, bias, b, None)


def _embedding(flow: Flow, node: Node) -> WeightUse | None:
    index, weight = operand(node, 0, "input"), _matrix(flow, operand(node, 1, "weight"))
    if index is None or weight is None:
        return None
    return WeightUse("embed", node, index, node, weight.name, weight.node, reader=node)


def _convolution(flow: Flow, node: Node) -> WeightUse | None:
    x, w = operand(node, 0, "input"), operand(node, 1, "weight")
    parameter = w and flow.facts.parameter_of(flow.source(w, CASTS))
    if x is None or w is None or not parameter:
        return None
    bias, b = _bias(flow, operand(node, 2, "bias"))
    w = flow.source(w, CASTS)
    return WeightUse("conv", node, x, _tokens(flow, node), parameter, w, bias, b, node)


def _tokens(flow: Flow, conv: Node) -> Node:
    """The convolution's result as ``[batch, tokens, features]`` where the graph makes it that."""
    node, found = conv, conv
    while len(flow.readers[node]) == 1 and name_of(flow.readers[node][0]) in VIEWS | CASTS:
        node = flow.readers[node][0]
        if len(shape_of(node)) == 3 and _last(node) == shape_of(conv)[1]:
            found = node
    return found


def _last(node: Node) -> object:
    value = node.meta.get(VALUE)
    return value.shape[-1] if isinstance(value, Tensor) else None
