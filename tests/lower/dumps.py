"""Adapters as text, for golden files: the five dimensions, shapes, and counts."""

from collections.abc import Iterator

from peftlang.ir.dims import Dim, product
from peftlang.ir.expr import Apply, DimValue, Expr, Hyper, Number, Ref
from peftlang.ir.method import Adapter, Contract, Init, Method, TensorDef
from peftlang.ir.types import Level

_INFIX = {"+", "-", "*", "/", "**", "@"}
_LEVELS = {Level.CONST: "", Level.EXAMPLE: " per example", Level.TOKEN: " per token"}


def expression(expr: Expr) -> str:
    match expr:
        case Number():
            return repr(expr.value)
        case DimValue():
            return f"`{expr.dim}`" if " " in str(expr.dim) else str(expr.dim)
        case Hyper() | Ref():
            return expr.name
    return _applied(expr)


def _applied(expr: Apply) -> str:
    args = [expression(arg) for arg in expr.args]
    if expr.op in _INFIX:
        return f"({args[0]} {expr.op} {args[1]})"
    args += [f"over {dim}" for dim in expr.over]
    args += [f"{key} = {expression(value)}" for key, value in expr.keywords]
    return f"{expr.op}({', '.join(args)})"


def typed(expr: Expr) -> str:
    return f"{expr.type}{_LEVELS[expr.type.level]}"


def _init(init: Init) -> str:
    if init.expression is not None:
        return expression(init.expression)
    args = [expression(arg) for arg in init.args]
    args += [f"{key} = {expression(value)}" for key, value in init.keywords]
    return f"{init.name}({', '.join(args)})" if args else str(init.name)


def _tensor(tensor: TensorDef) -> str:
    word = "param" if tensor.trainable else "buffer"
    dims = ", ".join(map(str, tensor.dims))
    text = f"{word} {tensor.name}[{dims}] {tensor.kind} ~ {_init(tensor.init)}"
    text += f" shared across {tensor.across}" if tensor.shared else ""
    return text if tensor.rate is None else f"{text} rate {expression(tensor.rate)}"


def _contract(contract: Contract) -> str:
    parts = [contract.property]
    if contract.subject is not None:
        parts.append(f"{expression(contract.subject)} : {typed(contract.subject)}")
    if contract.bound is not None:
        parts.append(f"{contract.relation} {expression(contract.bound)}")
    if contract.method is not None:
        args = ", ".join(f"{name} = {expression(value)}" for name, value in contract.arguments)
        parts.append(f"{contract.method}({args})")
    return " ".join(parts)


def count(method: Method) -> Dim:
    """Trainable parameters of one site, were nothing shared."""
    total = Dim.of(0)
    for tensor in method.tensors:
        if tensor.trainable:
            total = total + product(tensor.dims)
    return total


def method_lines(method: Method) -> Iterator[str]:
    for tensor in method.tensors:
        yield _tensor(tensor)
    for entry in method.inputs:
        limit = f"({entry.limit})" if entry.limit is not None else ""
        dims = ", ".join(map(str, entry.dims))
        yield f"input {entry.name}[{dims}] : {entry.kind}{limit}"
    for name, value in method.lets:
        yield f"let {name} : {typed(value)}"
    if method.function is not None:
        name, value = method.function
        yield f"function {name} = {expression(value)} : {typed(value)}"
    yield f"insertion {method.insertion}"
    for composition in method.compositions:
        value = composition.value
        yield f"composition {composition.target} = {expression(value)} : {typed(value)}"
    for penalty in method.penalties:
        yield f"penalty {expression(penalty)} : {typed(penalty)}"
    for contract in method.contracts:
        yield f"ensure {_contract(contract)}"
    yield f"trainable {count(method)}"


def adapter(found: Adapter) -> str:
    """The whole adapter; equal texts mean equal adapters, places in the source aside."""
    lines = [f"adapter {found.name} {found.args}"]
    for use in found.uses:
        lines.append(f"  {use.label}: {use.method.name} {use.args} at {use.selector}")
        lines += [f"    {line}" for line in method_lines(use.method)]
    lines += [f"  train {selector}" for selector in found.train]
    return "\n".join(lines) + "\n"
