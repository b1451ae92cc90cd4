"""T2xx: types, dimensions and shapes."""

from peftlang.diagnostics.codes.entry import Code

TYPES: tuple[Code, ...] = (
    Code(
        "T201",
        "shapes that do not fit",
        "An operator's operands have no dimensions in common in the way that the operator "
        "needs. The message shows both shapes.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = A @ (B @ x)
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
        "T202",
        "an ambiguous alignment",
        "A dimension that both operands have occurs twice in one of them, so alignment by name "
        "could mean either.",
        example="""\
method m(r: int = 8) {
    param S[d_x, d_x] ~ zeros
    param m[d_x] ~ ones
    position attn.q
    function delta = (m * S) @ x
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
        "T203",
        "an unknown dimension",
        "A shape uses a name that is neither a dimension of the site nor a hyper-parameter of "
        "type `int`.",
        example="""\
method m(r: int = 8) {
    param A[r, d_y] ~ normal
    param B[d_h, r] ~ zeros
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
        "T204",
        "a value of the wrong type",
        "A hyper-parameter's default or an argument is not of its declared type.",
        example="""\
method m(r: int = "eight") {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
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
        "T205",
        "an impossible size",
        "A dimension comes out as zero, negative or not whole for the arguments given.",
        example="""\
method m(r: int = 0) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
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
        "T206",
        "a division that leaves a remainder",
        "A division in a shape is a constraint, and these sizes do not keep it.",
        example="`param Q[d_h / b, b, b]` with `b = 5` at a site whose `d_h` is 64.",
        runs=False,
    ),
    Code(
        "T207",
        "a reduction over a dimension that is not there",
        "`over` names a dimension of the operand.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ softmax(A @ x, over d_x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ softmax(A @ x, over r)
}
""",
    ),
    Code(
        "T208",
        "a result of the wrong shape",
        "What a composition computes must have the shape of its target, and an init that of "
        "its tensor.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    position attn.q
    function delta = A @ x
    composition h = delta
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
        "T209",
        "an operand of the wrong shape or kind",
        "A function wants a vector, a matrix, whole numbers, or operands that agree in a "
        "certain way; the message says what, and what it got.",
        example="""\
method m(r: int = 8) {
    param m[d_h] ~ ones
    position attn.q
    composition W = W + transpose(m)
}
""",
        fixed="""\
method m {
    param m[d_h] ~ ones
    position attn.q
    composition W = W + diag(m) @ W
}
""",
    ),
    Code(
        "T210",
        "a reshape that changes how many elements there are",
        "The products of the dimensions before and after must be the same polynomial.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h * r, d_x] ~ zeros
    position attn.q
    function delta = reshape(B @ x, d_h, d_x) @ x
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h * r, d_x] ~ zeros
    position attn.q
    function delta = reshape(B @ x, d_h, r) @ (A @ x)
}
""",
    ),
    Code(
        "T211",
        "something that is no value here",
        "A condition, a text or a function stands where a number or tensor is wanted, or an "
        "expression where a dimension is wanted.",
        example="""\
method m(r: int = 8, act: fn = gelu) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ act(A @ x) * act
}
""",
        fixed="""\
method m(r: int = 8, act: fn = gelu) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ act(A @ x)
}
""",
    ),
    Code(
        "T212",
        "a number out of range",
        "A division by zero, a probability outside of [0, 1), an initialiser's argument that it "
        "cannot draw with (`std` below zero), a number with no finite value, or a whole number "
        "past 2**53.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x) / 0
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
        "T213",
        "a type that is too complex",
        "A value has at most 8 named dimensions, and a dimension is a polynomial of bounded "
        "size; real methods come nowhere near.",
        example="""\
method m(r: int = 8) {
    param A[r, r, r, r, r] ~ normal
    position attn.q
    function delta = sum(outer(A, A)) * h
}
""",
    ),
)
