"""M3xx: the clauses of a method or an adapter."""

from peftlang.diagnostics.codes.entry import Code

METHODS: tuple[Code, ...] = (
    Code(
        "M301",
        "a clause that may be given once is given twice",
        "`position`, `insertion` and the composition of one target can each be said once.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    position attn.v
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q, attn.v
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "M302",
        "a target that the site does not have",
        "A composition writes a hidden state or a weight of the site: `h`, `x`, `q`, `k`, "
        "`v`, `W` or `b`, where the position has it.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    composition z = z + delta
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    composition h = h + delta
}
""",
    ),
    Code(
        "M303",
        "a reparametrisation that reads `x`",
        "A composition of `W` or `b` changes a weight, which has no input; `x` is not in "
        "scope there.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    composition W = W + delta
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    composition h = h + delta
}
""",
    ),
    Code(
        "M304",
        "a method that changes nothing",
        "A method needs a function, a composition, or a penalty: without any of them the model "
        "computes what it did, and learns as it did.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    position attn.q
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
        "M305",
        "an unknown insertion form",
        "The insertion is `parallel` (the function reads the site's input) or `sequential` "
        "(it reads the output).",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    insertion serial
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    insertion sequential
}
""",
    ),
    Code(
        "M306",
        "sharing something that is no parameter",
        "`sharing` ties tensors that the method declares; in an adapter, tensors that several of "
        "its uses have.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    sharing C across model
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    sharing A across model
}
""",
    ),
    Code(
        "M307",
        "sharing across an unknown axis",
        "A parameter is shared across the whole `model` or across another axis that the "
        "message lists. `and` joins axes that each leave something to the other.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    sharing A across everything
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    sharing A across model
}
""",
    ),
    Code(
        "M308",
        "an unknown property in `ensure`",
        "The message lists the properties that can be ensured.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    ensure mergable
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
    ensure mergeable
}
""",
    ),
    Code(
        "M309",
        "a use with no position",
        "The method has no `position` of its own, so its use must say `at`.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    function delta = B @ (A @ x)
}

adapter a {
    m(r = 4)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    function delta = B @ (A @ x)
}

adapter a {
    m(r = 4) at attn.q
}
""",
    ),
    Code(
        "M310",
        "a file with nothing to compile",
        "A spec holds at least one method or adapter; the one to compile is named when there "
        "are several.",
        example="""\
# nothing here yet
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
        "M311",
        "a change that trains nothing",
        "A warning: no composition and no penalty reads a parameter, so training would change"
        " nothing. An adapter may use such a method beside others that train: one that makes room"
        " in the sequence, say, for what these put there.",
        example="""\
method m {
    position attn.q
    function delta = 0.1 * h
}
""",
        fixed="""\
method m {
    param s[d_h] ~ zeros
    position attn.q
    function delta = s * h
}
""",
    ),
    Code(
        "M312",
        "an adapter within itself",
        "An adapter may use other adapters, but not itself, and not so many that a thousand "
        "uses result.",
        example="""\
adapter a {
    a()
}
""",
    ),
    Code(
        "M313",
        "a weight read with sequential insertion",
        "With sequential insertion `d_x` is the size of the site's output, so that nothing "
        "names the columns of `W[d_h, d_x]`.",
        example="""\
method m {
    param s[d_h] ~ zeros
    position attn.q
    insertion sequential
    composition W = W + s * W
}
""",
        fixed="""\
method m {
    param s[d_h] ~ zeros
    position attn.q
    composition W = W + s * W
}
""",
    ),
    Code(
        "M314",
        "a change that could be meant for several uses",
        "`at` and `with`, on a command line or after an adapter that has uses of its own, "
        "speak of one use.",
        example="""\
from lora import lora

adapter inner {
    lora(r = 4)
    lora(r = 8) at attn.o
}

adapter outer {
    inner() at ffn.up
}
""",
        fixed="""\
from lora import lora

adapter outer {
    lora(r = 4) at ffn.up
    lora(r = 8) at attn.o
}
""",
    ),
    Code(
        "M315",
        "an initial value that reads what is not there yet",
        "A tensor's initial value may read the site's weights, dimensions, hyper-parameters, "
        "and where tensors start that are declared before it; hidden states and lets exist only "
        "later.",
        example="""\
method m(r: int = 8) {
    param B[d_h, r] ~ W @ transpose(A)
    param A[r, d_x] ~ normal
    position attn.q
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ W @ transpose(A)
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "M316",
        "a value that varies more than its target",
        "Keys and values are one set for each row of the batch, the prompt too: a value that "
        "is one for each token cannot be composed with them.",
        example="""\
method m {
    param s ~ ones
    position attn.core
    composition k = s * sum(q) * k
}
""",
        fixed="""\
method m {
    param s ~ ones
    position attn.core
    composition k = s * k
}
""",
    ),
    Code(
        "M317",
        "a learning rate of what does not learn",
        "`rate NAMES = value` is the learning rate of parameters of the method, as a multiple of "
        "the adapter's. Buffers have none.",
        example="""\
method m(r: int = 8) {
    buffer A[r, d_x] ~ normal
    param  B[d_h, r] ~ zeros
    rate A = 16
    position attn.q
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    buffer A[r, d_x] ~ normal
    param  B[d_h, r] ~ zeros
    rate B = 16
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "M318",
        "a state that is carried and never changed",
        "What a site hands to the next is what a composition makes of the state.",
        example="""\
method m(r: int = 8) {
    carry z[d_h] ~ zeros
    param s ~ zeros
    position block
    composition h = h + s * z
}
""",
        fixed="""\
method m(r: int = 8) {
    carry z[d_h] ~ zeros
    param s ~ zeros
    position block
    composition z = z + h
    composition h = h + s * z
}
""",
    ),
    Code(
        "M319",
        "a change that mixes the rows of a batch",
        "What the model says of one text must not depend on which others happen to be in the "
        "batch, so a mean over the batch stands in penalties alone.",
        example="""\
method m(E: int = 4) {
    param R[E, d_x]  ~ normal
    param B[E, d_h]  ~ zeros
    position attn.q
    let g = softmax(R @ x, over E)
    function delta = mean(g, over batch) @ B
}
""",
        fixed="""\
method m(E: int = 4) {
    param R[E, d_x]  ~ normal
    param B[E, d_h]  ~ zeros
    position attn.q
    let g = softmax(R @ x, over E)
    function delta = pool(g, causal = false) @ B
}
""",
    ),
    Code(
        "M320",
        "one tensor that two uses declare otherwise",
        "A tensor that uses have in common starts, trains and is shared in one way, so their "
        "methods declare it alike. Its sizes are compared where the adapter meets a model.",
        example="""\
method up {
    param s ~ zeros shared across model
    position ffn.up
    composition h = (1 + s) * h
}
method down {
    param s ~ ones shared across model
    position ffn.down
    composition h = s * h
}
adapter both {
    up
    down
    sharing s across uses
}
""",
        fixed="""\
method up {
    param s ~ ones shared across model
    position ffn.up
    composition h = s * h
}
method down {
    param s ~ ones shared across model
    position ffn.down
    composition h = s * h
}
adapter both {
    up
    down
    sharing s across uses
}
""",
    ),
    Code(
        "M321",
        "a start that cannot train",
        "A warning: the gradient of a factor is made of the other factors, so where all factors of "
        "a product start at zero none of them ever moves. One of them starts elsewhere; the "
        "product is zero all the same.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ zeros
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ kaiming_uniform
    param B[d_h, r] ~ zeros
    position attn.q
    function delta = B @ (A @ x)
}
""",
    ),
)
