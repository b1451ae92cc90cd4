"""P0xx: characters, tokens and grammar."""

from peftlang.diagnostics.codes.entry import Code

SYNTAX: tuple[Code, ...] = (
    Code(
        "P001",
        "a character that means nothing",
        "Outside comments and quoted texts, a spec is written in Latin letters, digits and "
        "the signs of the language.",
        example="""\
method m(r: int = 8) {
    let λ = r
}
""",
        fixed="""\
method m(r: int = 8) {
    let lambda = r
}
""",
    ),
    Code(
        "P002",
        "a text without its closing quote",
        "A quoted text ends on the line that it begins on. There are no escapes.",
        example="""\
method m(r: int = 8) {
    position "model.layers.*
}
""",
        fixed="""\
method m(r: int = 8) {
    position "model.layers.*"
}
""",
    ),
    Code(
        "P003",
        "a docstring without its end",
        "Triple quotes open a docstring, and triple quotes close it.",
        example='"""LoRA, unfinished.\nmethod m {\n    position attn.q\n}\n',
        fixed='"""LoRA."""\nmethod m {\n    position attn.q\n}\n',
    ),
    Code(
        "P004",
        "a number that is none",
        "Digits run into letters, or the number is too long or too large to hold.",
        example="""\
method m(r: int = 8) {
    let a = 2r
}
""",
        fixed="""\
method m(r: int = 8) {
    let a = 2 * r
}
""",
    ),
    Code(
        "P005",
        "bytes that are not text",
        "A spec is UTF-8 with no control characters, in comments too.",
        example="A file saved as Latin-1, where `é` is the one byte 0xE9.",
        runs=False,
    ),
    Code(
        "P006",
        "a file that is too large",
        "A spec is a page or two of text; what is far larger is another file given by mistake.",
        example="A file of ten megabytes.",
        runs=False,
    ),
    Code(
        "P007",
        "nesting that is too deep",
        "An expression has a bounded depth, operators included, so that reading it has a "
        "bounded cost.",
        example="A hundred and one opening parentheses.",
        runs=False,
    ),
    Code(
        "P008",
        "a bracket that is never closed",
        "Every `(` and `[` is closed within its clause.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x ~ normal
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
}
""",
    ),
    Code(
        "P009",
        "a bracket that closes nothing",
        "A closing bracket needs an opening one of its own kind before it.",
        example="""\
method m(r: int = 8) {
    let a = (r + 1]
}
""",
        fixed="""\
method m(r: int = 8) {
    let a = (r + 1)
}
""",
    ),
    Code(
        "P010",
        "a body without its brace",
        "The clauses of a method or an adapter stand between `{` and `}`.",
        example="""\
method m
    position attn.q
}
""",
        fixed="""\
method m {
    position attn.q
}
""",
    ),
    Code(
        "P011",
        "an unknown clause",
        "A line of a method begins with the word of a clause.",
        example="""\
method m(r: int = 8) {
    functoin delta = x
}
""",
        fixed="""\
method m(r: int = 8) {
    function delta = x
}
""",
    ),
    Code(
        "P012",
        "something else was expected",
        "The clause began well, and at the mark it could not go on like this. The message "
        "says what could have stood there.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] = normal
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
}
""",
    ),
    Code(
        "P013",
        "a word of a later version",
        "`allocate`, `select` and search spaces (`r in {4, 8}`) are kept for "
        "what is still to be designed.",
        example="""\
method m(r: int = 8) {
    allocate z
}
""",
        fixed="""\
method m(r: int = 8) {
    let z = r
}
""",
    ),
    Code(
        "P014",
        "a docstring out of place",
        "A docstring stands before `method` or `adapter`, or opens the file. Elsewhere a "
        "remark begins with `#`.",
        example='method m(r: int = 8) {\n    """About the rank."""\n    position attn.q\n}\n',
        fixed="""\
method m(r: int = 8) {
    # About the rank.
    position attn.q
}
""",
    ),
    Code(
        "P015",
        "a clause out of place",
        "Methods hold clauses; adapters hold uses and `train`; after `with` stands what a use "
        "may say otherwise.",
        example="""\
adapter a {
    param A[r, d_x] ~ normal
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
}
""",
    ),
    Code(
        "P016",
        "an unknown type of hyper-parameter",
        "A hyper-parameter is an `int`, `float`, `bool`, `str` or `fn`.",
        example="""\
method m(r: integer = 8) {
    position attn.q
}
""",
        fixed="""\
method m(r: int = 8) {
    position attn.q
}
""",
    ),
    Code(
        "P017",
        "a line that begins no item",
        "Between methods and adapters a file holds imports and nothing else.",
        example="""\
methd m {
    position attn.q
}
""",
        fixed="""\
method m {
    position attn.q
}
""",
    ),
    Code(
        "P018",
        "a scope that cannot be counted",
        "Only `layers` is followed by numbers in brackets.",
        example="""\
method m(r: int = 8) {
    position attn.q in blocks[0..3]
}
""",
        fixed="""\
method m(r: int = 8) {
    position attn.q in layers[0..3]
}
""",
    ),
    Code(
        "P019",
        "a tap that names no value",
        "A tap reads one value of another site, which is the last part of the name: what comes "
        "out of a layer is `block.h`, what goes in `block.x`.",
        example="""\
method m(r: int = 8) {
    tap y[d_h] = block
    param s ~ zeros
    position attn
    function delta = s * y
}
""",
        fixed="""\
method m(r: int = 8) {
    tap y[d_h] = embed.h
    param s ~ zeros
    position attn
    function delta = s * y
}
""",
    ),
)
