"""A file: imports, methods, adapters, and what stands beside them."""

from dataclasses import field

from peftlang.diagnostics import Source
from peftlang.syntax.nodes.clauses import Clause
from peftlang.syntax.nodes.expressions import Argument, Expr, String
from peftlang.syntax.nodes.node import Ident, Node
from peftlang.syntax.nodes.selectors import Selector


class Comment(Node):
    """`# text`, from the sign to the end of its line."""

    text: str


class Docstring(Node):
    """The text between triple quotes; line endings are line feeds, trailing blanks are gone."""

    text: str


class Lost(Node):
    """A clause or an item that could not be read.

    Attributes:
        word: The word that it begins with; empty where no word could be read.
        name: What it declares, as far as that could be read. Whoever reads that name elsewhere
            in the text has done nothing wrong.
    """

    word: str
    name: Ident | None


class ImportedName(Node):
    """`name` or `name as alias`."""

    name: Ident
    alias: Ident | None


class Import(Node):
    """`from SOURCE import NAMES`.

    `source` is a String for a path beside this file, an Ident for the standard library.
    """

    source: String | Ident
    names: tuple[ImportedName, ...]


class HyperParameter(Node):
    """`name: type = default`; a `type` that is none of `TYPES` has had its diagnostic."""

    name: Ident
    type: Ident
    default: Expr | None


class Method(Node):
    """`method NAME(parameters) { clauses }`, clauses in the order written.

    `lost` is what a mistake of syntax has taken away from it; a method without one is whole.
    """

    name: Ident
    parameters: tuple[HyperParameter, ...]
    clauses: tuple[Clause, ...]
    docstring: Docstring | None = None
    lost: tuple[Lost, ...] = field(default=(), compare=False, kw_only=True)


class Use(Node):
    """`method(arguments) at SELECTOR with CLAUSE, …` in an adapter."""

    method: Ident
    arguments: tuple[Argument, ...]
    at: Selector | None
    overrides: tuple[Clause, ...]


class Train(Node):
    """`train SELECTOR`: base parameters that are unfrozen."""

    selector: Selector


class Tie(Node):
    """`sharing NAMES across USES` in an adapter: tensors of several uses that are the same."""

    names: tuple[Ident, ...]
    uses: tuple[Ident, ...]


class Adapter(Node):
    """`adapter NAME(parameters) { uses }`."""

    name: Ident
    parameters: tuple[HyperParameter, ...]
    clauses: tuple[Use | Train | Tie, ...]
    docstring: Docstring | None = None
    lost: tuple[Lost, ...] = field(default=(), compare=False, kw_only=True)


Item = Import | Method | Adapter


class File(Node):
    """A whole file, its items in order; after parse errors, those that could be read.

    `docstring` is one that opens the file and belongs to no method. `comments` and `source`
    are what the formatter needs to keep comments and blank lines where they were. `lost` is
    what could not be read between the items; what was lost inside of one is said there.
    """

    items: tuple[Item, ...]
    docstring: Docstring | None = None
    lost: tuple[Lost, ...] = field(default=(), compare=False, kw_only=True)
    comments: tuple[Comment, ...] = field(default=(), compare=False, kw_only=True)
    source: Source | None = field(default=None, compare=False, repr=False, kw_only=True)


TYPES = ("int", "float", "bool", "str", "fn")
