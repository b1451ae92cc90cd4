"""Methods that HF PEFT has and our library has not: options of it that change the mathematics.

They are written into the converted spec, beside what it imports.
"""

from collections.abc import Mapping

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

NARROWING_RANDLORA = """\"\"\"RandLoRA where the output is smaller than the input.\"\"\"
method narrowing_randlora(r: int = 32, alpha: float = 640.0) {
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


def narrowing(_hypers: object, sizes: Mapping[str, int]) -> str:
    """Why a module is not one whose output is the smaller side."""
    return "" if sizes["d_h"] < sizes["d_x"] else "scales the larger side"


def not_narrowing(hypers: object, sizes: Mapping[str, int]) -> str:
    """Why a module is one whose output is the smaller side."""
    return "scales the larger side" if not narrowing(hypers, sizes) else ""


NEUMANN_TERMS = range(3, 9)
"""Numbers of terms for which the truncated series is written out."""


def neumann_oft(count: int) -> str:
    """OFT whose Cayley transform is the first terms of its Neumann series.

    ``(I - S)(I + S)^-1 = I - 2 S + 2 S^2 - …`` for small S; HF PEFT sums with plus signs, halves
    the last term, and has one term less than asked for beyond the third.
    """
    powers = max(count - 1, 3)
    terms = [" @ ".join(["S"] * power) for power in range(1, powers + 1)]
    scaled = [f"2 * ({term})" for term in terms[:-1]] + [f"({terms[-1]})"]
    return f"""\"\"\"OFT with {count} terms of the Neumann series in place of the inverse.\"\"\"
method oft_neumann_{count}(b: int = 32) {{
    param Q[d_x / b, b, b] ~ zeros

    position    linear
    let         S = skew(Q)
    let         N = {" + ".join(scaled)}
    composition W = W + W @ transpose(block_diag(N))
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
