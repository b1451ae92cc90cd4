"""Methods that HF PEFT has and our library has not: options of it that change the mathematics.

They are written into the converted spec, beside what it imports.
"""

from collections.abc import Mapping

from peftlang.ir.expr import Scalar

LORA_OF_WEIGHT = """method lora_of_weight(r: int = 8, alpha: float = 16.0) {
    param A[r, d_x] ~ kaiming_uniform(a = sqrt(5))
    param B[d_h, r] ~ zeros

    position    linear
    composition W = W + (alpha / r) * (B @ A)
}"""

RSLORA_OF_WEIGHT = LORA_OF_WEIGHT.replace("alpha / r", "alpha / sqrt(r)")

RSDORA = """\"\"\"DoRA whose scale is that of rsLoRA.\"\"\"
method rsdora(r: int = 8, alpha: float = 16.0) {
    param A[r, d_x] ~ kaiming_uniform(a = sqrt(5))
    param B[d_h, r] ~ zeros
    param m[d_h]    ~ norm(W, over d_x)

    position    linear
    let         V = W + (alpha / sqrt(r)) * (B @ A)
    composition W = (m / stop_gradient(norm(V, over d_x))) * V
}"""

EMBEDDING = """\"\"\"LoRA of an embedding: a low-rank change of the table.\"\"\"
method embedding_lora(r: int = 8, alpha: float = 16.0) {
    param A[r, vocab] ~ zeros
    param B[d_h, r]   ~ normal

    position    embed
    composition W = W + (alpha / r) * transpose(B @ A)
}"""

RS_EMBEDDING = EMBEDDING.replace("alpha / r", "alpha / sqrt(r)").replace(
    "embedding_lora", "embedding_rslora"
)

IA3_INPUT = """\"\"\"(IA)3 on what a projection reads.\"\"\"
method ia3_input {
    param l[d_x] ~ ones

    position    linear
    composition x = l * x
}"""

SHARED_OFT = """\"\"\"OFT with one rotation for all blocks.\"\"\"
method shared_oft(b: int = 32) {
    param Q[b, b] ~ zeros

    position    linear
    let         R = cayley(skew(Q))
    composition W = reshape(reshape(W, d_h, d_x / b, b) @ transpose(R), d_h, d_x)
}"""

ORTHONORMAL_HRA = """\"\"\"HRA whose reflections are made orthogonal to each other.\"\"\"
method orthonormal_hra(r: int = 8) {
    param U[r, d_x] ~ kaiming_uniform(a = sqrt(5))

    position    linear
    let         Q = orthonormal(U)
    composition W = W - 2 * ((W @ transpose(Q)) @ Q)
}"""

NARROWING_RANDLORA = """method narrowing_randlora(r: int = 32, alpha: float = 640.0) {
    buffer A[r, d_h]           ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    buffer B[d_x, d_h]         ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    param  lambda[d_h / r, r]  ~ zeros
    param  gamma[d_h / r, d_h] ~ constant(1 / d_h)

    position    linear
    let         V = lambda * copies(A, d_h / r) * gamma
    let         u = reshape(transpose(B) @ x, d_h / r, r)
    function    delta = sum(sum(u * V, over d_h / r), over r)
    composition h = h + (alpha / r) * delta
}"""

RANDLORA_OF_ANY_RANK = """\"\"\"RandLoRA whose rank need not divide the input's size.\"\"\"
method randlora_of_any_rank(n: int = 1, r: int = 32, alpha: float = 640.0) {
    buffer A[r, d_x]     ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    buffer B[d_h, n * r] ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    param  lambda[n, r]  ~ zeros
    param  gamma[n, d_x] ~ constant(1 / d_x)

    position    linear
    let         V = lambda * copies(A, n) * gamma
    function    delta = B @ reshape(V @ x, n * r)
    composition h = h + (alpha / r) * delta
}"""

NARROWING_RANDLORA_OF_ANY_RANK = """\"\"\"The same where the output is smaller than the input.\"\"\"
method narrowing_randlora_of_any_rank(n: int = 1, r: int = 32, alpha: float = 640.0) {
    buffer A[r, d_h]     ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    buffer B[d_x, n * r] ~ uniform(low = -sqrt(3), high = sqrt(3))  shared across layers
    param  lambda[n, r]  ~ zeros
    param  gamma[n, d_h] ~ constant(1 / d_h)

    position    linear
    let         V = lambda * copies(A, n) * gamma
    let         u = reshape(transpose(B) @ x, n, r)
    function    delta = sum(sum(u * V, over n), over r)
    composition h = h + (alpha / r) * delta
}"""

MISS_OF_ANY_RANK = """\"\"\"MiSS of any rank: M adds every r-th entry of the input.\"\"\"
method miss_of_any_rank(r: int = 64) {
    param  D[d_h, r] ~ zeros
    buffer M[r, d_x] ~ zeros

    position    linear
    composition h = h + D @ (M @ x)
}"""


def narrowing(_hypers: object, sizes: Mapping[str, int]) -> str:
    """Why a module is not one whose output is the smaller side."""
    return "" if sizes["d_h"] < sizes["d_x"] else "scales the larger side"


def not_narrowing(hypers: object, sizes: Mapping[str, int]) -> str:
    """Why a module is one whose output is the smaller side."""
    return "scales the larger side" if not narrowing(hypers, sizes) else ""


def _bases(hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> str:
    wanted = -(-min(sizes["d_h"], sizes["d_x"]) // int(hypers["r"]))
    return "" if hypers["n"] == wanted else f"has {hypers['n']} bases, and not {wanted}"


def narrowing_by_any(hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> str:
    """The same, for a number of bases that is a hyper-parameter: or why it is another number."""
    return narrowing(hypers, sizes) or _bases(hypers, sizes)


def not_narrowing_by_any(hypers: Mapping[str, Scalar], sizes: Mapping[str, int]) -> str:
    """The same."""
    return not_narrowing(hypers, sizes) or _bases(hypers, sizes)


TURNED_PREFIX = """\"\"\"A prefix whose keys lie as in a cache: R turns them back.\"\"\"
method turned_prefix(l: int = 30) {
    param  P_k[l, kv_heads, d_head] ~ normal(std = 0.02)
    param  P_v[l, kv_heads, d_head] ~ normal(std = 0.02)
    buffer R[d_head, d_head]        ~ zeros

    position    attn.core
    let         K = reshape(reshape(P_k, l * kv_heads, d_head) @ transpose(R), l, kv_heads, d_head)
    composition k = concat(K, k)
    composition v = concat(P_v, v)
}"""

NEUMANN_TERMS = range(2, 11)
"""Numbers of terms for which the truncated series is written out."""


def neumann_oft(count: int, *, shared: bool = False) -> str:
    """OFT whose Cayley transform is the first terms of its Neumann series.

    ``(I - S)(I + S)^-1 = I - 2 S + 2 S^2 - …`` for small S; HF PEFT sums with plus signs, halves
    the last term, and has one term less than asked for beyond the third.

    Args:
        count: The number of terms that is asked for, at least 2.
        shared: One rotation for all blocks.
    """
    powers = max(count - 1, 3) if count > 2 else 1
    terms = [" @ ".join(["S"] * power) for power in range(1, powers + 1)]
    last = terms[-1] if count > 2 else f"2 * {terms[-1]}"
    series = " + ".join([*(f"2 * ({term})" for term in terms[:-1]), f"({last})"])
    if shared:
        shape = "b, b"
        change = "reshape(reshape(W, d_h, d_x / b, b) @ transpose(N), d_h, d_x)"
    else:
        shape, change = "d_x / b, b, b", "W @ transpose(block_diag(N))"
    name = f"{'shared_' if shared else ''}oft_neumann_{count}"
    return f"""\"\"\"OFT with {count} terms of the Neumann series in place of the inverse.\"\"\"
method {name}(b: int = 32) {{
    param Q[{shape}] ~ zeros

    position    linear
    let         S = skew(Q)
    let         N = {series}
    composition W = W + {change}
}}"""


def lokr(*, full: bool, low: bool) -> str:
    """LoKr whose first factor has ``p x q`` entries.

    Args:
        full: The first factor is one matrix; else a product of two of rank r.
        low: The second factor is a product of two of rank r; else one matrix.
    """
    first = "C" if full else "(D @ E)"
    second = "(B @ A)" if low else "B"
    tensors = ["C[p, q] ~ zeros"] if full else ["D[p, r] ~ zeros", "E[r, q] ~ kaiming_uniform"]
    if low:
        tensors += ["B[d_h / p, r] ~ kaiming_uniform", "A[r, d_x / q] ~ kaiming_uniform"]
    else:
        tensors += ["B[d_h / p, d_x / q] ~ kaiming_uniform"]
    name = f"lokr_{'full' if full else 'low'}_{'low' if low else 'full'}"
    declared = "\n".join(f"    param {tensor}" for tensor in tensors)
    return f"""\"\"\"LoKr with a first factor that need not be square.\"\"\"
method {name}(p: int = 4, q: int = 4, r: int = 8, alpha: float = 8.0) {{
{declared}

    position    linear
    composition W = W + (alpha / r) * kron({first}, {second})
}}"""
