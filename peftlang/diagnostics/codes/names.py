"""N1xx: names and imports."""

from peftlang.diagnostics.codes.entry import Code

NAMES: tuple[Code, ...] = (
    Code(
        "N101",
        "a name is given twice",
        "A hyper-parameter, a tensor, a `let` and a method each need a name of their own "
        "within their method or file: the second one would hide the first.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param A[d_h, r] ~ zeros
    position attn.q
    function delta = A @ x
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "N102",
        "an unknown name",
        "An expression reads a name that is neither a hyper-parameter, a tensor, a `let`, nor "
        "something that the site has in scope.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ y)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "N103",
        "an unknown function",
        "A call names a function that the language does not have and that is not a hyper- "
        "parameter of type `fn`.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ geluu(A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ gelu(A @ x)
}
""",
    ),
    Code(
        "N104",
        "an unknown method",
        "An adapter uses a method that this file neither defines nor imports.",
        example="""\
adapter a {
    lora(r = 4) at attn.q
}
""",
        fixed="""\
from lora import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
    ),
    Code(
        "N105",
        "an import that is not found",
        "A path in quotes is looked for beside the importing file; a bare name in the "
        "standard library. Nothing else is read.",
        example="""\
from loraa import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
        fixed="""\
from lora import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
    ),
    Code(
        "N106",
        "an import outside the spec's folder",
        "A spec may read files of its own folder and of the standard library, and no others.",
        example="""\
from "../lora.peft" import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
        fixed="""\
from lora import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
    ),
    Code(
        "N107",
        "a file that does not have the imported name",
        "The file exists, but it defines no method or adapter of this name.",
        example="""\
from lora import lorra

adapter a {
    lorra(r = 4) at attn.q
}
""",
        fixed="""\
from lora import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
    ),
    Code(
        "N108",
        "files that import each other in a circle",
        "Imports must form a tree that ends; the message shows the circle.",
        example=(
            '`a.peft` says `from "b.peft" import b`, and `b.peft` says `from "a.peft" import a`.'
        ),
        runs=False,
    ),
    Code(
        "N109",
        "lets that need each other",
        "A `let` may use the lets above and below it, but not, through them, itself.",
        example="""\
method m(r: int = 8) {
    let u = v + 1
    let v = u + 1
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    let u = 1
    let v = u + 1
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "N110",
        "an unknown argument",
        "A use or a call gives an argument that the method or function does not have.",
        example="""\
from lora import lora

adapter a {
    lora(rank = 4) at attn.q
}
""",
        fixed="""\
from lora import lora

adapter a {
    lora(r = 4) at attn.q
}
""",
    ),
    Code(
        "N111",
        "an argument given twice or missing",
        "Each argument is given once, by place or by name; one without a default must be given.",
        example="""\
method m(r: int) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}

adapter a {
    m()
}
""",
        fixed="""\
method m(r: int) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}

adapter a {
    m(r = 4)
}
""",
    ),
    Code(
        "N112",
        "a name that hides another",
        "A declaration may not take the name of a site's dimension (`d_x`, `layers`, …), of "
        "`x`, `h` or `W` where the site has them, of the target of a composition, or of a "
        "function of the language that the method calls. Of what else a site has see N114.",
        example="""\
method m(r: int = 8) {
    param W[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (W @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "N113",
        "a name that nothing reads",
        "A warning: the method works, and what the name stands for has no effect on it.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    param C[d_h] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "N114",
        "a name that hides what the site has",
        "A warning: within the method a declaration stands in place of the site's value of the "
        "same name, which nothing can read then: `b` at a projection is its bias, `q` at the "
        "attention product its queries. Whole-number hyper-parameters are sizes, and hide nothing.",
        example="""\
method m {
    param b[d_h] ~ zeros
    position attn.q
    composition h = h + b
}
""",
        fixed="""\
method m {
    param b_0[d_h] ~ zeros
    position attn.q
    composition h = h + b_0
}
""",
    ),
)
