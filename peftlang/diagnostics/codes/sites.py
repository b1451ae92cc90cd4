"""S4xx: selectors, roles and sites."""

from peftlang.diagnostics.codes.entry import Code

SITES: tuple[Code, ...] = (
    Code(
        "S401",
        "an unknown role",
        "A position is a role in the dataflow, or a module path in quotes.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.query
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
        "S402",
        "a selector that matches nothing",
        "No site of this model is selected. The message lists the nearest roles and paths "
        "that the model has.",
        example="`position cross_attn.q` compiled for a decoder-only model.",
        runs=False,
    ),
    Code(
        "S403",
        "a position that lacks what the method reads",
        "The expressions read a name (`W`, `q`, `resid`, …) that the sites at this position "
        "do not have.",
        example="""\
method m(r: int = 8) {
    param m[d_h] ~ ones
    position attn
    composition W = m * W
}
""",
        fixed="""\
method m(r: int = 8) {
    param m[d_h] ~ ones
    position attn.q
    composition W = m * W
}
""",
    ),
    Code(
        "S404",
        "a layer that does not exist",
        "A scope names layers past the end of the stack, or soft tokens are to come in at a layer "
        "where the model leaves no room for them: `prompt in layers[k]` needs attention in every "
        "layer before, and positions that are relative or looked up in a table.",
        example="`attn.q in layers[0..31]` compiled for a model of 12 layers.",
        runs=False,
    ),
    Code(
        "S405",
        "a scope that does not exist",
        "The model has no part of this name: an encoder-only model has no `decoder`.",
        example="`attn.q in decoder` compiled for BERT.",
        runs=False,
    ),
    Code(
        "S407",
        "roles that could not be found",
        "The model's dataflow does not show the role looked for. Module paths can be used instead.",
        example="`position attn.q` on a model whose graph has no attention product.",
        runs=False,
    ),
    Code(
        "S408",
        "a number that does not fit a site",
        "A dimension of the method is no whole number at this site, or is zero: `d_x / b` where "
        "`b` does not divide `d_x`. Or the method asks for an entry that a tensor does not have: "
        "`E[place]` of `E[2, d_h]` with three alternatives in the position. Or a number made of "
        "the site's sizes is out of range: a mask drawn with a probability beyond 0 to 1.",
        example="`oft` with `b = 48` compiled for a model 64 wide.",
        runs=False,
    ),
    Code(
        "S409",
        "a shared tensor whose sites differ",
        "One tensor serves all sites of its axis, so every dimension of it has to be the same "
        "there.",
        example="`buffer B[d_h, r] ~ normal shared across model` at `attn.q, attn.v` of a model "
        "with fewer key heads than query heads.",
        runs=False,
    ),
    Code(
        "S410",
        "an attention product that cannot be extended",
        "The model spells its attention out in a way in which learned keys have no clear meaning.",
        example="`prefix` compiled for an eager attention that sorts its scores.",
        runs=False,
    ),
    Code(
        "S411",
        "keys added elsewhere than in front",
        "Masks line up with the model's own keys when learned ones come before them.",
        example="`composition k = concat(k, P_k)`",
        runs=False,
    ),
    Code(
        "S412",
        "tokens that have no ids",
        "A method chooses tokens by their ids, and is placed where the sequence is of image "
        "patches or audio frames; or it names a kind of token that the model's configuration "
        "does not have.",
        example='`token_is("cls")` compiled for a model whose configuration has no `cls_token_id`.',
        runs=False,
    ),
    Code(
        "S413",
        "tokens that are no patches",
        "`conv2` works over the rows and columns of an image's patches.",
        example="`conv2(x, K)` compiled for a language model.",
        runs=False,
    ),
    Code(
        "S414",
        "a look at later tokens",
        "Where the model lets no token see a later one, a method that does so would learn from "
        "what it is to predict. Of a function the spec can say that it may; a tap of a whole "
        "sequence has to be of another one.",
        example="`pool(x)`, or `tap y[n, d_h] = embed.h`, compiled for a decoder-only model.",
        runs=False,
    ),
    Code(
        "S415",
        "a sequence without soft tokens",
        "`soft(n)` tells soft tokens from others, and they stand before one of the model's "
        "sequences only.",
        example="`deep_prompts` compiled for an encoder-decoder without `in encoder`.",
        runs=False,
    ),
    Code(
        "S416",
        "a tap that does not name one site",
        "What a tap names is looked up for each site where the method stands: it must be one "
        "other site, have the sizes that the tap states, and where it is read token by token as "
        "many tokens.",
        example="`tap y[d_h] = block.h in layers[layer - 1]` in a method that stands in layer 0.",
        runs=False,
    ),
    Code(
        "S417",
        "a tap of a value that is not there yet",
        "A site can read what is computed before it, and what does not depend on it.",
        example="`tap y[d_h] = block.h in layers[layer + 1]`.",
        runs=False,
    ),
    Code(
        "S418",
        "a method that no expert can take",
        "Which tokens an expert of a mixture is given shows only when the model runs. A method "
        "at a single expert is written into the expert's weights, so it has to be linear in what "
        "the expert reads.",
        example="`lora at expert.up` with a `dropout` in it, or `houlsby at expert.down`.",
        runs=False,
    ),
    Code(
        "S419",
        "a value from before soft tokens come in",
        "Soft tokens that come in at a layer in the middle have no value in the layers before, "
        "where a tap, a carried state or a look at all keys would find what stands in for them.",
        example="`tap y[d_h] = block.h in layers[0]` at layer 5, beside `prompt in layers[3]`.",
        runs=False,
    ),
    Code(
        "S421",
        "positions whose values have different types",
        "A method has one type for each value that it reads from its sites. Where two "
        "positions differ, it is placed in two uses.",
        example="""\
method m {
    param s ~ ones
    position attn, attn.core
    composition h = s * h
}
""",
        fixed="""\
method m {
    param s ~ ones
    composition h = s * h
}

adapter a {
    m() at attn
    m() at attn.core
}
""",
    ),
    Code(
        "S422",
        "a condition that cannot be decided",
        "`where` compares a size of the site (`d_x`, `d_h`, `d_head`, `heads`, `kv_heads`, "
        "`layers`, `layer`, `vocab`) with a number; `and` and `or` join comparisons.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q where width >= 64
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q where d_h >= 64
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "S423",
        "a range of no layers",
        "Both ends are included, and the first comes before the last.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q in layers[11..6]
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q in layers[6..11]
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "S424",
        "scopes that cannot be combined",
        "Layers are narrowed once, `except` takes away from a whole selector, and the number "
        "of cases is bounded.",
        example="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q in layers[0..5] in layers[3..8]
    function delta = B @ (A @ x)
}
""",
        fixed="""\
method m(r: int = 8) {
    param A[r, d_x] ~ normal
    param B[d_h, r] ~ zeros
    position attn.q in layers[3..5]
    function delta = B @ (A @ x)
}
""",
    ),
    Code(
        "S425",
        "uses that share a tensor at no site",
        "`sharing A across uses` makes the uses' tensors one wherever the methods' own sharing "
        "brings their sites together: the whole model, one layer, one module. Here it never does.",
        example="`sharing A across uses` with `lora` at `attn.q` and at `attn.v`, whose tensors "
        "are each site's own.",
        runs=False,
    ),
    Code(
        "S426",
        "more entries than there are",
        "At this site a function takes more entries than its operand has: a matrix has no more "
        "singular vectors than rows, and no more than columns, and `topk` chooses among as many as "
        "a dimension is long.",
        example="`svd_u(W, d_x)` at a projection from 64 to 32 features, which has 32.",
        runs=False,
    ),
)
