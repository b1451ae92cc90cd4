"""Methods and adapters: the five dimensions as typed expressions."""

from typing import Literal

from pydantic import Field

from peftlang.ir.dims import Dim
from peftlang.ir.expr import Expr, Rewriter, Scalar, substitute
from peftlang.ir.selector import Frozen, Selector, Target

Axis = Literal["model", "stack", "stacks", "layers", "roles", "experts"]
"""Who shares: every site of the model; of one stack of layers; the sites with one role and layer,
across stacks; the sites with one role, across layers; the sites of one layer, across roles."""


class HyperParameter(Frozen):
    """A hyper-parameter of a method or adapter.

    Attributes:
        kind: int, float, bool, str, or fn (the name of an activation).
        default: Value when the caller gives none; None means that one must be given.
    """

    name: str
    kind: Literal["int", "float", "bool", "str", "fn"]
    default: Scalar | None = None
    span: tuple[int, int] | None = None


class Init(Frozen):
    """How a tensor starts.

    Attributes:
        name: An entry of the table of initialisers, or None when ``expression`` gives it.
        args: Positional arguments.
        keywords: Named arguments.
        expression: An expression of W, b and dimensions, e.g. ``norm(W, over d_x)``.
    """

    name: str | None = None
    args: tuple[Expr, ...] = ()
    keywords: tuple[tuple[str, Expr], ...] = ()
    expression: Expr | None = None


class TensorDef(Frozen):
    """A ``param`` (trainable) or ``buffer`` (frozen) of a method.

    Attributes:
        shared: The axes across which one tensor serves many sites; none for one per site.
        group: How many neighbouring layers share, where not all do.
        rate: Learning rate as a multiple of the adapter's; None for the same.
        kind: float, or int for index sets.
    """

    name: str
    dims: tuple[Dim, ...]
    init: Init
    trainable: bool
    shared: tuple[Axis, ...] = ()
    group: Dim | None = None
    rate: Expr | None = None
    kind: Literal["float", "int"] = "float"
    span: tuple[int, int] | None = None

    @property
    def across(self) -> str | None:
        """Who shares, as it is written: ``layers``, ``layers(4)``, ``stacks and roles``."""
        return " and ".join(map(self._axis, self.shared)) or None

    def _axis(self, axis: Axis) -> str:
        return f"{axis}({self.group})" if axis == "layers" and self.group is not None else axis


class InputDef(Frozen):
    """A value that the caller supplies at run time.

    Attributes:
        kind: float, int, or index (a whole number in ``[0, limit)``).
        dims: Its own dimensions; one per row of the batch, or one for the whole batch.
    """

    name: str
    dims: tuple[Dim, ...]
    kind: Literal["float", "int", "index"]
    limit: Dim | None = None
    span: tuple[int, int] | None = None


class TapDef(Frozen):
    """What another site has, under a name of the method's own.

    Attributes:
        target: Role or path of the other site, and its scopes, layers left out.
        value: Which of its values: ``h``, ``x``, ….
        layer: Its layer, in which ``layer`` is the reading site's; negative without ``layer``
            counts from the end. None for the same layer, or the only site there is.
        sequence: Whether the name is the whole sequence, its length the first of ``dims``.
        own: The value's dimensions in the other site's own words.
    """

    name: str
    dims: tuple[Dim, ...]
    target: Target
    value: str
    layer: Dim | None = None
    sequence: bool = False
    own: tuple[Dim, ...] = ()
    span: tuple[int, int] | None = None


class CarryDef(Frozen):
    """A state that each site of a placement reads, and hands on to the next in its stack.

    Attributes:
        init: Its value before the first site; a number stands for all elements.
    """

    name: str
    dims: tuple[Dim, ...]
    init: Expr
    span: tuple[int, int] | None = None


class Composition(Frozen):
    """``composition TARGET = value``: how the change meets the target.

    Attributes:
        target: A hidden state or weight of the site, or the name of a carried state.
    """

    target: str
    value: Expr
    span: tuple[int, int] | None = None


class Contract(Frozen):
    """One ``ensure`` property, type-checked; deciding it is another stage's work.

    Attributes:
        property: identity_at_init, mergeable, trainable, rank, orthogonal, symmetric,
            equivalent, causal, token_local.
        subject: The expression it speaks of, for rank, orthogonal and symmetric.
        relation: The comparison, for ``trainable == e`` and ``rank(e) <= e``.
        bound: Its right-hand side.
        method: The name of the other method, for ``equivalent``.
        arguments: Its arguments.
        tensors: For the other method's tensors, this one's, where the names differ.
    """

    property: str
    subject: Expr | None = None
    relation: Literal["==", "<=", ">=", "<", ">"] | None = None
    bound: Expr | None = None
    method: str | None = None
    arguments: tuple[tuple[str, Expr], ...] = ()
    tensors: tuple[tuple[str, str], ...] = ()
    text: str = ""
    span: tuple[int, int] | None = None


class Method(Frozen):
    """A method: its hyper-parameters and tensors, and its five dimensions.

    The function is inlined in the compositions (``lets`` and the function's name are shared
    nodes of one DAG); ``function`` keeps it for display and analysis.
    """

    name: str
    doc: str = ""
    hypers: tuple[HyperParameter, ...] = ()
    tensors: tuple[TensorDef, ...] = ()
    inputs: tuple[InputDef, ...] = ()
    taps: tuple[TapDef, ...] = ()
    carries: tuple[CarryDef, ...] = ()
    lets: tuple[tuple[str, Expr], ...] = ()
    function: tuple[str, Expr] | None = None
    position: Selector | None = None
    insertion: Literal["parallel", "sequential"] = "parallel"
    compositions: tuple[Composition, ...] = ()
    penalties: tuple[Expr, ...] = ()
    contracts: tuple[Contract, ...] = ()
    text: dict[str, str] = Field(default_factory=dict)
    """Source text of each dimension's clause (function, position, composition, sharing …)."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What of the site the compositions write; carried states are not the site's."""
        own = {carry.name for carry in self.carries}
        return tuple(c.target for c in self.compositions if c.target not in own)


class Use(Frozen):
    """One method placed by an adapter: overridden dimensions already applied, arguments fixed.

    Attributes:
        method: The method with its clauses as this use has them.
        args: Value of every hyper-parameter.
        selector: Where.
        label: Unique name within the adapter: the method's, numbered when used twice.
    """

    method: Method
    args: dict[str, Scalar]
    selector: Selector
    label: str


class Tie(Frozen):
    """A tensor that several uses of an adapter have in common, wherever their sites share it.

    Attributes:
        tensor: Its name in the method of each.
        uses: Labels of the uses.
    """

    tensor: str
    uses: tuple[str, ...]


class Adapter(Frozen):
    """What is compiled, trained and saved: uses with every argument fixed.

    Attributes:
        name: The adapter's name in the spec.
        args: Value of every hyper-parameter of the adapter itself.
        train: Base parameters to unfreeze.
        ties: Tensors that uses share with one another.
        source: A self-contained spec text with all arguments fixed; it reproduces this adapter.
    """

    name: str
    doc: str = ""
    args: dict[str, Scalar] = Field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    train: tuple[Selector, ...] = ()
    ties: tuple[Tie, ...] = ()
    source: str = ""

    def owner(self, use: str, tensor: str) -> str:
        """Label of the first use that has the tensor in common with ``use``; else its own."""
        tied = (tie.uses[0] for tie in self.ties if tie.tensor == tensor and use in tie.uses)
        return next(tied, use)


def fixed(method: Method, args: dict[str, Scalar]) -> Method:
    """``method`` with float, bool, str and fn hyper-parameters replaced by their values.

    Integer hyper-parameters remain symbols of dimensions; bind them with the site's sizes.
    """
    rewrite = substitute(args)
    return method.model_copy(
        update={
            "tensors": tuple(
                d.model_copy(
                    update={
                        "init": _fixed_init(d.init, rewrite),
                        "rate": d.rate and rewrite(d.rate),
                    }
                )
                for d in method.tensors
            ),
            "lets": tuple((name, rewrite(value)) for name, value in method.lets),
            "function": method.function and (method.function[0], rewrite(method.function[1])),
            "compositions": tuple(
                c.model_copy(update={"value": rewrite(c.value)}) for c in method.compositions
            ),
            "carries": tuple(
                c.model_copy(update={"init": rewrite(c.init)}) for c in method.carries
            ),
            "penalties": tuple(map(rewrite, method.penalties)),
            "contracts": tuple(_fixed_contract(c, rewrite) for c in method.contracts),
        }
    )


def _fixed_contract(contract: Contract, rewrite: Rewriter) -> Contract:
    subject = contract.subject and rewrite(contract.subject)
    arguments = tuple((name, rewrite(value)) for name, value in contract.arguments)
    return contract.model_copy(update={"subject": subject, "arguments": arguments})


def _fixed_init(init: Init, rewrite: Rewriter) -> Init:
    return Init(
        name=init.name,
        args=tuple(map(rewrite, init.args)),
        keywords=tuple((key, rewrite(value)) for key, value in init.keywords),
        expression=None if init.expression is None else rewrite(init.expression),
    )
