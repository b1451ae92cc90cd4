"""A method against one kind of site: every expression typed."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, cast

from peftlang.diagnostics import Source
from peftlang.ir.dims import Dim
from peftlang.ir.expr import Expr
from peftlang.ir.method import HyperParameter, InputDef, Method, TapDef, TensorDef
from peftlang.ir.selector import Selector
from peftlang.ir.types import Level, Type
from peftlang.lower.clauses import Clauses, Placed
from peftlang.lower.compositions import Compositions
from peftlang.lower.contracts import Contracts
from peftlang.lower.dimensions import Dimensions
from peftlang.lower.expressions import OF_ATTENTION, Expressions, Resolve
from peftlang.lower.initial import Initials
from peftlang.lower.names import Names, check_hiding
from peftlang.lower.ordering import dependency_order
from peftlang.lower.rates import Rates
from peftlang.lower.report import Place, Report
from peftlang.lower.resolving import Resolver
from peftlang.lower.scopes import Site
from peftlang.lower.sharing import Shared, shared_axes
from peftlang.lower.streams import Streams, tap_symbols
from peftlang.lower.tree import read
from peftlang.syntax import nodes as n

if TYPE_CHECKING:
    from peftlang.lower.methods import Wanted


class OneSite:
    """Lowers one method at one kind of site.

    Args:
        wanted: The method as its use wants it.
        clauses: Its clauses, overrides applied.
        names: What they declare.
        site: The kind of site.
        insertion: ``parallel`` or ``sequential``.
        report: Takes what is wrong.
    """

    def __init__(
        self, wanted: "Wanted", clauses: Clauses, names: Names, site: Site, insertion: str,
        report: Report,
    ) -> None:  # fmt: skip
        self._wanted, self._clauses, self._names = wanted, clauses, names
        self._site, self._insertion, self._report = site, insertion, report
        self._names_here = Resolver(wanted, names, site, insertion, report)
        self._tensors, self._lets = self._names_here.tensors, self._names_here.lets
        symbols = {**names.outer_symbols(wanted.outer), **names.symbols}
        tapped, sequences = tap_symbols(clauses, names)
        symbols |= tapped
        self._dimensions = Dimensions(symbols, names.variables, report, sequences)
        self._streams = Streams(self._dimensions, wanted.values, sequences, report)
        self._expressions = self._reader(self._names_here.value)

    def _reader(self, resolve: Resolve) -> Expressions:
        elsewhere = {} if "k" in self._site.values else dict.fromkeys(OF_ATTENTION, "`attn.core`")
        return Expressions(
            resolve, self._names.functions, self._names.variables, self._dimensions,
            self._report, elsewhere,
        )  # fmt: skip

    def lower(self, selector: Selector | None) -> Method | None:
        """The method, or None after at least one error."""
        clauses, definition = self._clauses, self._wanted.definition
        check_hiding(self._names, clauses, self._site.values, self._site.position, self._report)
        inputs = [self._input(entry) for entry in clauses.inputs]
        taps = [self._tap(entry) for entry in clauses.taps]
        carried = self._carried()
        tensors = self._lower_tensors()
        self._lower_lets()
        carries = [self._streams.start(entry, type_, self._expressions, carried)
                   for entry in clauses.carries
                   if (type_ := carried.get(entry.node.name.text)) is not None]  # fmt: skip
        compositions = Compositions(
            self._expressions, self._names, carried, self._site, self._insertion, self._report
        ).lower(clauses, self._lets)
        self._check_carried(carried)
        penalties = [self._penalty(entry) for entry in clauses.penalties]
        contracts = Contracts(
            self._expressions, self._dimensions, self._wanted, self._report
        ).lower(clauses.ensures)
        if self._report.failed:
            return None
        name = clauses.function.node.name.text if clauses.function else ""
        value = self._lets.get(name)
        return Method(
            name=definition.name,
            doc=definition.doc,
            hypers=_hypers(self._wanted),
            tensors=tuple(t for t in tensors if t is not None),
            inputs=tuple(i for i in inputs if i is not None),
            taps=tuple(t for t in taps if t is not None),
            carries=tuple(c for c in carries if c is not None),
            lets=tuple((key, expr) for key, expr in self._lets.items()
                       if expr is not None and key != name),
            function=(name, value) if value is not None else None,
            position=selector,
            insertion=cast("Literal['parallel', 'sequential']", self._insertion),
            compositions=tuple(compositions),
            penalties=tuple(p for p in penalties if p is not None),
            contracts=tuple(contracts),
            text=clauses.texts(),
        )  # fmt: skip

    def _check_carried(self, carried: dict[str, Type]) -> None:
        """A carried state is changed somewhere (M318)."""
        targets = {entry.node.target.text for entry in self._clauses.compositions}
        for name in carried:
            if name not in targets:
                self._report.error(
                    "M318", f"`{name}` is carried, and no composition changes it",
                    self._names.declared[name].place, help=f"write `composition {name} = …`",
                )  # fmt: skip

    def _tap(self, entry: Placed[n.Tap]) -> TapDef | None:
        found = self._streams.tap(entry)
        self._tensors.setdefault(entry.node.name.text, found[1] if found else None)
        return found[0] if found else None

    def _carried(self) -> dict[str, Type]:
        found: dict[str, Type] = {}
        for entry in self._clauses.carries:
            type_ = self._streams.carry(entry)
            self._tensors.setdefault(entry.node.name.text, type_)
            if type_ is not None:
                found[entry.node.name.text] = type_
        return found

    def _lower_tensors(self) -> list[TensorDef | None]:
        axes = shared_axes(self._clauses, self._report)
        self._rates = Rates(self._reader(self._names_here.initial), self._report).lower(
            self._clauses
        )
        initials = Initials(
            self._reader(self._names_here.initial), self._dimensions, self._report,
            lambda name: name in self._names.declared,
        )  # fmt: skip
        return [self._tensor(entry, initials, axes) for entry in self._clauses.tensors]

    def _tensor(
        self, entry: Placed[n.Param | n.Buffer], initials: Initials, axes: dict[str, Shared]
    ) -> TensorDef | None:
        node, source = entry.node, entry.source
        name, trainable = node.name.text, isinstance(node, n.Param)
        self._tensors.setdefault(name, None)
        dims = self._shape(node.dims, source)
        if dims is None:
            return None
        found = initials.lower(node.init, dims, source, trainable=trainable)
        kind = found[1] if found else "float"
        self._tensors[name] = Type(dims, Level.CONST, cast("Literal['float', 'int']", kind))
        if found is None:
            return None
        shared = axes.get(name)
        return TensorDef(
            name=name, dims=dims, init=found[0], trainable=trainable,
            shared=shared.axes if shared else (), group=self._group(shared),
            rate=self._rates.get(name),
            kind=cast("Literal['float', 'int']", kind), span=(node.span.start, node.span.end),
        )  # fmt: skip

    def _group(self, shared: Shared | None) -> Dim | None:
        """The size of a group of layers: whole numbers and hyper-parameters alone."""
        if shared is None or shared.size is None:
            return None
        found = self._dimensions.read(shared.size.node, shared.size.source, sized=True)
        whole = found is None or found.symbols <= set(self._names.symbols)
        if found is None or (whole and found.constant != 0):
            return found
        self._report.error("M307", "a group is of so many layers, the same everywhere",
                           shared.size.place, help="write a whole number")  # fmt: skip
        return None

    def _shape(self, dims: Iterable[n.Expr], source: Source) -> tuple[Dim, ...] | None:
        read_dims = [self._dimensions.read(dim, source, sized=True) for dim in dims]
        found = tuple(dim for dim in read_dims if dim is not None)
        if len(found) != len(read_dims):
            return None
        for dim, node in zip(found, dims, strict=True):
            if dim.constant is not None and dim.constant < 1:
                self._report.error("T205", f"a size is at least 1, and this is {dim}",
                                   Place(source, node.span))  # fmt: skip
                return None
        return found

    def _input(self, entry: Placed[n.Input]) -> InputDef | None:
        node, source, name = entry.node, entry.source, entry.node.name.text
        self._tensors.setdefault(name, None)
        dims = self._shape(node.dims, source)
        kind, limit = self._input_type(node.type, source)
        if dims is None or kind is None:
            return None
        value: Literal["float", "int"] = "float" if kind == "float" else "int"
        self._tensors[name] = Type(dims, Level.EXAMPLE, value)
        span = (node.span.start, node.span.end)
        return InputDef(name=name, dims=dims, kind=kind, limit=limit, span=span)

    def _input_type(
        self, expr: n.Expr, source: Source
    ) -> tuple[Literal["float", "int", "index"] | None, Dim | None]:
        if isinstance(expr, n.Name) and expr.text in ("float", "int"):
            return ("float" if expr.text == "float" else "int"), None
        if isinstance(expr, n.Call) and expr.function.text == "index" and len(expr.arguments) == 1:
            argument = expr.arguments[0]
            if isinstance(argument, n.Argument) and argument.name is None:
                limit = self._dimensions.read(argument.value, source, sized=True)
                return (None, None) if limit is None else ("index", limit)
        self._report.error("T204", "this is not a type of input", Place(source, expr.span),
                           help="inputs are `float`, `int`, or `index(n)`")  # fmt: skip
        return None, None

    def _lower_lets(self) -> None:
        values: dict[str, Placed[n.Expr]] = {}
        for let in self._clauses.lets:
            values.setdefault(let.node.name.text, Placed(let.node.value, let.source))
        if self._clauses.function:
            function = self._clauses.function
            values.setdefault(function.node.name.text, Placed(function.node.value, function.source))
        reads = {
            name: list(dict.fromkeys(
                found for found, node in read(placed.node)
                if found in values and isinstance(node, n.Name)
            ))
            for name, placed in values.items()
        }  # fmt: skip
        order, circles = dependency_order(reads)
        for circle in circles:
            self._circle(circle)
        self._lets.update(dict.fromkeys(values))
        for name in order:
            self._lets[name] = self._expressions.lower(values[name].node, values[name].source)

    def _circle(self, names: list[str]) -> None:
        shown = [*names[:6], "…", names[-1]] if len(names) > 8 else names
        chain = " -> ".join(f"`{name}`" if name != "…" else name for name in (*shown, names[0]))
        self._report.error("N109", f"these need each other in a circle: {chain}",
                           self._names.declared[names[0]].place)  # fmt: skip

    def _penalty(self, entry: Placed[n.Penalty]) -> Expr | None:
        value = self._expressions.lower(entry.node.value, entry.source)
        if value is not None and value.type.dims:
            self._report.error(
                "T208", f"a penalty is one number, and this is {value.type}",
                Place(entry.source, entry.node.value.span), help="`sum(…)` or `mean(…)` of it",
            )  # fmt: skip
        return value


def _hypers(wanted: "Wanted") -> tuple[HyperParameter, ...]:
    return tuple(
        HyperParameter(
            name=p.name.text,
            kind=cast("Literal['int', 'float', 'bool', 'str', 'fn']", p.type.text),
            default=wanted.values.get(p.name.text) if p.default is not None else None,
            span=(p.span.start, p.span.end),
        )
        for p in cast("n.Method", wanted.definition.node).parameters
    )
