"""Random trees of the language, and random damage to texts in it."""

import keyword

from hypothesis import strategies as st

from peftlang.diagnostics import Span
from peftlang.syntax import nodes as n

AT = Span(0, 0)
WORDS = (
    *("param", "buffer", "input", "let", "position", "function", "insertion", "composition"),
    *("sharing", "penalty", "rate", "ensure", "method", "adapter", "from", "import", "train", "at"),
    *("with", "in", "except", "where", "over", "across", "shared", "none", "carry", "select"),
)

# Words of the language are names like any others wherever a name can stand.
texts = st.one_of(
    st.sampled_from(["x", "h", "W", "r", "d_x", "scale", "lambda", "layer", "delta"]),
    st.sampled_from([*WORDS, *keyword.kwlist]),
    st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,8}", fullmatch=True),
).filter(lambda text: text not in ("true", "false"))
# These would be read as the connector or the word that follows `sharing`.
plain = texts.filter(lambda text: text not in ("none", "across", "over"))
idents = st.builds(n.Ident, st.just(AT), plain)
quoted = st.text(st.characters(blacklist_characters='"\n\r\t', categories=["L", "N", "P", "S"]))


def _number(value: float) -> n.Number:
    return n.Number(AT, value, repr(value))


names = st.builds(n.Name, st.just(AT), plain)
leaves = st.one_of(
    names,
    st.integers(0, 10**9).map(_number),
    st.floats(0, 1e30).map(_number),
    st.builds(n.String, st.just(AT), quoted),
    st.builds(n.Boolean, st.just(AT), st.booleans()),
)


def _compound(inner: st.SearchStrategy[n.Expr]) -> st.SearchStrategy[n.Expr]:
    at = st.just(AT)
    argument = st.one_of(
        st.builds(n.Argument, at, st.one_of(st.none(), idents), inner),
        st.builds(n.Over, at, st.one_of(names, st.integers(0, 9).map(_number))),
    )
    ops = st.sampled_from(["+", "-", "*", "/", "@", "**"])
    comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        st.builds(n.Unary, at, st.just("-"), inner),
        st.builds(n.Binary, at, ops, inner, inner, at),
        st.builds(n.Compare, at, comparisons, inner, inner, at),
        st.builds(n.Logic, at, st.sampled_from(["and", "or"]), inner, inner, at),
        st.builds(n.Call, at, idents, st.lists(argument, max_size=4).map(tuple)),
        st.builds(n.Index, at, inner, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    )


expressions: st.SearchStrategy[n.Expr] = st.recursive(leaves, _compound, max_leaves=12)

roles = st.builds(n.Role, st.just(AT), st.lists(plain, min_size=1, max_size=3).map(tuple))
globs = st.builds(n.Glob, st.just(AT), quoted)


def _flat(options: list[n.Selector]) -> n.Selector:
    """A list inside a list is one list, as the parser has it."""
    flat: list[n.Selector] = []
    for option in options:
        flat.extend(option.options if isinstance(option, n.Either) else [option])
    return flat[0] if len(flat) == 1 else n.Either(AT, tuple(flat))


def _selectors(inner: st.SearchStrategy[n.Selector]) -> st.SearchStrategy[n.Selector]:
    at = st.just(AT)
    bound = st.one_of(st.integers(0, 40).map(_number), names)
    ends = st.tuples(st.one_of(st.none(), bound), st.one_of(st.none(), bound))
    ranges = ends.filter(lambda pair: pair != (None, None)).map(
        lambda pair: n.LayerRange(AT, *pair)
    )
    side = plain.filter(lambda text: text != "layers")
    scope = st.one_of(
        st.builds(n.Side, at, side),
        st.builds(n.Layers, at, st.lists(ranges, max_size=3).map(tuple)),
        st.builds(n.Where, at, expressions),
        st.builds(n.Except, at, inner),
    )
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map(_flat),
        st.builds(n.Scoped, at, inner, st.lists(scope, min_size=1, max_size=3).map(tuple)),
    )


selectors: st.SearchStrategy[n.Selector] = st.recursive(
    st.one_of(roles, globs), _selectors, max_leaves=6
)

_at = st.just(AT)
_sides = st.builds(n.Side, _at, st.sampled_from(["encoder", "vision_model"]))
_narrowed = st.lists(_sides, min_size=1, max_size=2).map(tuple)
tapped = st.one_of(roles, globs, st.builds(n.Scoped, _at, st.one_of(roles, globs), _narrowed))
_dims = st.lists(expressions, max_size=3).map(tuple)
_one_axis = st.one_of(idents, st.builds(n.Grouped, _at, idents, expressions))
_joined = st.builds(n.Joined, _at, st.lists(_one_axis, min_size=2, max_size=3).map(tuple))
_axis = st.one_of(_one_axis, _joined)
_shared = st.one_of(st.none(), _axis)
_sharing = st.one_of(
    st.just(n.Sharing(AT, (), None)),
    st.builds(n.Sharing, _at, st.lists(idents, min_size=1, max_size=3).map(tuple), _axis),
)
overrides = st.one_of(
    st.builds(n.Function, _at, idents, expressions),
    st.builds(n.Insertion, _at, idents),
    st.builds(n.Composition, _at, idents, expressions),
    _sharing,
    st.builds(n.Penalty, _at, expressions),
    st.builds(n.Rate, _at, st.lists(idents, min_size=1, max_size=3).map(tuple), expressions),
)
clauses = st.one_of(
    st.builds(n.Param, _at, idents, _dims, expressions, _shared),
    st.builds(n.Buffer, _at, idents, _dims, expressions, _shared),
    st.builds(n.Input, _at, idents, _dims, expressions),
    st.builds(n.Carry, _at, idents, _dims, expressions),
    st.builds(n.Tap, _at, idents, _dims, idents, tapped),
    st.builds(n.Let, _at, idents, expressions),
    st.builds(n.Position, _at, selectors),
    st.builds(n.Ensure, _at, st.lists(expressions, min_size=1, max_size=3).map(tuple)),
    overrides,
)
hypers = st.lists(
    st.builds(
        n.HyperParameter,
        _at,
        idents,
        st.builds(n.Ident, _at, st.sampled_from(n.TYPES)),
        st.one_of(st.none(), expressions),
    ),
    max_size=4,
).map(tuple)
docstrings = st.one_of(
    st.none(),
    st.builds(
        n.Docstring,
        _at,
        st.from_regex(r"[A-Za-z .,()\n]{0,60}[A-Za-z.]", fullmatch=True).map(
            lambda text: "\n".join(line.rstrip() for line in text.split("\n"))
        ),
    ),
)
methods = st.builds(
    n.Method, _at, idents, hypers, st.lists(clauses, max_size=5).map(tuple), docstrings
)
_used = texts.filter(lambda text: text not in WORDS)
_arguments = st.lists(
    st.builds(n.Argument, _at, st.one_of(st.none(), idents), expressions), max_size=3
).map(tuple)
uses = st.builds(
    n.Use,
    _at,
    st.builds(n.Ident, _at, _used.filter(lambda text: text not in ("and", "or", "as"))),
    _arguments,
    st.one_of(st.none(), selectors),
    st.lists(overrides, max_size=3).map(tuple),
)
_names = st.lists(idents, min_size=1, max_size=3).map(tuple)
ties = st.builds(n.Tie, _at, _names, _names)
adapters = st.builds(
    n.Adapter,
    _at,
    idents,
    hypers,
    st.lists(st.one_of(uses, st.builds(n.Train, _at, selectors), ties), max_size=4).map(tuple),
    docstrings,
)
imports = st.builds(
    n.Import,
    _at,
    st.one_of(idents.filter(lambda name: name.text != "import"), st.builds(n.String, _at, quoted)),
    st.lists(
        st.builds(n.ImportedName, _at, idents, st.one_of(st.none(), idents)),
        min_size=1,
        max_size=3,
    ).map(tuple),
)
files = st.builds(
    n.File, _at, st.lists(st.one_of(imports, methods, adapters), max_size=4).map(tuple)
)
