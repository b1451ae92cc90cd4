"""What a site is given: the caller's inputs, taps of other sites, states that sites hand on."""

from typing import Literal

from peftlang.diagnostics import did_you_mean
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Expr, Number, names
from peftlang.ir.method import CarryDef, InputDef, TapDef
from peftlang.ir.positions import POSITIONS, SITE_DIMS
from peftlang.ir.positions import Scope as SiteValues
from peftlang.ir.selector import Target
from peftlang.ir.types import Level, Type
from peftlang.lower.arguments import Callee, bind
from peftlang.lower.constants import Values
from peftlang.lower.declare import Declarations
from peftlang.lower.expressions import in_brackets, lower_expression, read_dim, read_shape
from peftlang.lower.report import Fault, Placed, every
from peftlang.lower.scope import Scope
from peftlang.lower.selectors import lower_selector
from peftlang.lower.walk import offsets
from peftlang.syntax import nodes as n


def lower_input(clause: Placed[n.Input], scope: Scope) -> InputDef:
    """A value that the caller supplies.

    Raises:
        Faults: T204, no type of input; T205 and what shapes get wrong.
    """
    node, name = clause.node, clause.node.name.text
    scope.tensors.setdefault(name, None)
    dims, (kind, limit) = read_shape(node.dims, scope), _input_type(node.type, scope)
    scope.tensors[name] = Type(dims, Level.EXAMPLE, "float" if kind == "float" else "int")
    return InputDef(name=name, dims=dims, kind=kind, limit=limit, span=offsets(node))


def _input_type(expr: n.Expr, scope: Scope) -> tuple[Literal["float", "int", "index"], Dim | None]:
    if isinstance(expr, n.Name) and expr.text in ("float", "int"):
        return ("float" if expr.text == "float" else "int"), None
    if isinstance(expr, n.Call) and expr.function.text == "index":
        callee = Callee("index", "it is called as `index(n)`", (1, 1))
        (size,) = bind(expr.function, expr.arguments, callee).operands
        return "index", read_dim(size, scope, sized=True)
    advice = "inputs are `float`, `int`, or `index(n)`"
    raise Fault("T204", "this is not a type of input", expr, help=advice)


def tapped_dims(declared: Declarations) -> dict[str, bool]:
    """Dimensions that taps name first, and whether they are lengths of sequences."""
    found: dict[str, bool] = {}
    for clause in declared.clauses.of(n.Tap):
        node = clause.node
        value = (_values(node.selector) or {}).get(node.value.text)
        for index, dim in enumerate(node.dims):
            if not isinstance(dim, n.Name) or dim.text in SITE_DIMS:
                continue
            if declared.kinds.get(dim.text) != "int":
                sequence = value is not None and _is_sequence(value, len(node.dims))
                length = sequence and index == 0
                found[dim.text] = length or found.get(dim.text, False)
    return found


def _is_sequence(value: Type, rank: int) -> bool:
    """Whether a tap with so many dimensions is of a whole sequence."""
    return value.level is Level.EXAMPLE or rank == len(value.dims) + 1


def _values(selector: n.Selector) -> SiteValues | None:
    """What a tapped site has; a module named by its path has what a layer has."""
    base = selector.selector if isinstance(selector, n.Scoped) else selector
    if isinstance(base, n.Glob):
        return POSITIONS["block"]
    return POSITIONS.get(base.text) if isinstance(base, n.Role) else None


def lower_tap(clause: Placed[n.Tap], scope: Scope) -> TapDef:
    """What another site has, under a name of the method's own.

    Raises:
        Faults: S403, S424, T208 and what selectors and dimensions get wrong.
    """
    node, name = clause.node, clause.node.name.text
    scope.tensors.setdefault(name, None)
    target = _target(node.selector, scope.declared.use.values)
    dims = tuple(every(lambda dim: read_dim(dim, scope), node.dims))
    value = _tapped(node)
    _check_rank(node, dims, value, scope)
    sequence = _is_sequence(value, len(dims))
    layer = _layer(node.selector, scope)
    scope.tensors[name] = Type(dims, Level.EXAMPLE if sequence else Level.TOKEN)
    return TapDef(
        name=name,
        dims=dims,
        target=target,
        value=node.value.text,
        layer=layer,
        sequence=sequence,
        own=value.dims,
        span=offsets(node),
    )


def _target(selector: n.Selector, values: Values) -> Target:
    if isinstance(selector, n.Scoped):
        scopes = tuple(s for s in selector.scopes if not isinstance(s, n.Layers))
        for scope in scopes:
            if isinstance(scope, n.Except):
                message = "a tap names one site, so there is nothing to except"
                raise Fault("S424", message, scope)
        base = selector.selector
        selector = n.Scoped(selector.span, base, scopes) if scopes else base
    return lower_selector(selector, values).targets[0]


def _tapped(node: n.Tap) -> Type:
    """The type of what a tap reads."""
    values = _values(node.selector) or {}
    value = values.get(node.value.text)
    if value is None or value.level is Level.CONST:
        has = [name for name, type_ in values.items() if type_.level is not Level.CONST]
        shown = "it can read " + ", ".join(f"`{name}`" for name in has)
        advice = did_you_mean(node.value.text, has) or shown
        raise Fault("S403", f"a tap cannot read `{node.value.text}` there", node.value, help=advice)
    return value


def _check_rank(node: n.Tap, dims: tuple[Dim, ...], value: Type, scope: Scope) -> None:
    ranks = {len(value.dims), len(value.dims) + (value.level is Level.TOKEN)}
    if len(dims) not in ranks:
        message = f"`{node.value.text}` there is {value}, and the tap is {in_brackets(dims)}"
        advice = "one dimension more, in front, makes it the whole sequence"
        raise Fault("T208", message, node.name, help=advice)
    first = node.dims[0] if node.dims else None
    named = isinstance(first, n.Name) and first.text in scope.sequences
    if _is_sequence(value, len(dims)) and not named:
        message = "the length of a tapped sequence has a name of its own"
        raise Fault("T208", message, node.name, help="such as `tap y[n_y, d_h] = …`")


def _layer(selector: n.Selector, scope: Scope) -> Dim | None:
    """The layer, where it is said."""
    scopes = selector.scopes if isinstance(selector, n.Scoped) else ()
    said = [s for s in scopes if isinstance(s, n.Layers)]
    if not said:
        return None
    ranges = [r for s in said for r in s.ranges]
    if len(ranges) != 1 or ranges[0].first is None or ranges[0].first is not ranges[0].last:
        advice = "`in layers[layer - 1]`, or `in layers[-1]`"
        raise Fault("S424", "a tap reads one layer", said[0], help=advice)
    found, values = read_dim(ranges[0].first, scope), scope.declared.use.values
    whole = {name for name, value in values.items() if value is None or isinstance(value, int)}
    unknown = found.symbols - whole - {"layer"}
    if unknown:
        raise Fault("S424", f"a layer cannot be counted in `{min(unknown)}`", said[0])
    return found


def lower_carry(clause: Placed[n.Carry], scope: Scope) -> tuple[str, Type]:
    """A carried state's name and type.

    Raises:
        Faults: what dimensions get wrong.
    """
    name = clause.node.name.text
    scope.tensors.setdefault(name, None)
    type_ = Type(tuple(every(lambda dim: read_dim(dim, scope), clause.node.dims)), Level.TOKEN)
    scope.tensors[name] = type_
    return name, type_


def lower_carry_start(clause: Placed[n.Carry], carried: dict[str, Type], scope: Scope) -> CarryDef:
    """A carried state with its value before the first site.

    Args:
        clause: The state.
        carried: Every carried state of the method, and its type.
        scope: What names stand for.

    Raises:
        Faults: M315, T208 and what the expression gets wrong.
    """
    node, type_ = clause.node, carried[clause.node.name.text]
    value = _constant(node.init) or lower_expression(node.init, clause.source, scope)
    read = names(value) & set(carried)
    if read:
        message = f"before the first site there is no `{min(read)}`"
        advice = "start from `zeros`, `ones`, or what the site has"
        raise Fault("M315", message, node.init, help=advice)
    if value.type.dims and value.type.dims != type_.dims:
        message = f"`{node.name.text}` is {type_}, and this is {value.type}"
        raise Fault("T208", message, node.init)
    return CarryDef(name=node.name.text, dims=type_.dims, init=value, span=offsets(node))


def _constant(expr: n.Expr) -> Expr | None:
    """The initialisers that fit a state of any length."""
    if isinstance(expr, n.Name) and expr.text in ("zeros", "ones"):
        return Number(1.0 if expr.text == "ones" else 0.0, Type(), offsets(expr))
    return None
