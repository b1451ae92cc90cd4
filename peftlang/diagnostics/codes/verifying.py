"""V8xx: references and contracts."""

from peftlang.diagnostics.codes.entry import Code

VERIFYING: tuple[Code, ...] = (
    Code(
        "V801",
        "a reference that cannot be read",
        "The file that `--against` names does not exist, or Python cannot run it.",
        example="`peftlang verify lora --against missing.py`.",
        runs=False,
    ),
    Code(
        "V802",
        "a reference without its function",
        "A reference file defines `reference(site, params, x, h, W, b, **inputs)`; it may "
        "leave out arguments that it does not need, and takes no others.",
        example="A file that defines `def lora(x):` alone.",
        runs=False,
    ),
    Code(
        "V803",
        "a reference that raises",
        "The message names the line of the reference, and the site for which it was called.",
        example="`return h + params.C @ x` where the method has no tensor `C`.",
        runs=False,
    ),
    Code(
        "V804",
        "a reference that returns something else",
        "A reference returns the new `h`, or a dict of new values of what the site has: `W`, "
        "`b`, `x`, `q`, `k`, `v`, `h`.",
        example="A reference without `return`.",
        runs=False,
    ),
    Code(
        "V805",
        "a reference whose result has another shape",
        "The new value has the shape of the old one; `k`, `v` and the prompt may be longer "
        "along the sequence.",
        example="`return x @ params.A.T` where `h` is wanted.",
        runs=False,
    ),
    Code(
        "V806",
        "a reference that returns no number",
        "A value is NaN or infinite where the spec's is not.",
        example="`return h / (norm - norm)`.",
        runs=False,
    ),
    Code(
        "V807",
        "a reference that cannot be differentiated",
        "Gradients are compared too, so the result has to follow from the tensors that are given.",
        example="`return torch.tensor(h.tolist())`.",
        runs=False,
    ),
    Code(
        "V808",
        "a reference that writes to its arguments",
        "What it is given is for reading alone: the caller compares gradients of those tensors.",
        example="`h += delta; return h`.",
        runs=False,
    ),
    Code(
        "V809",
        "a reference that is not a function",
        "Called twice with the same arguments it gives two answers: it keeps something, or "
        "draws random numbers.",
        example="A reference that adds `torch.randn_like(h)`.",
        runs=False,
    ),
    Code(
        "V810",
        "an unknown reference",
        "`--against` takes a Python file, a .peft file, the name of a library spec, or `hf:` "
        "and the name of a method of the PEFT library.",
        example="`peftlang verify lora --against hg:lora`.",
        runs=False,
    ),
    Code(
        "V811",
        "methods whose tensors do not correspond",
        "Two methods are compared with the same tensors, found by name; names that differ are"
        " given as a correspondence.",
        example="`ensure equivalent(prefix(l = l))` in a method that calls its keys `K`.",
        runs=False,
    ),
    Code(
        "V812",
        "a method that suits no small site",
        "Every drawn size is refused by a condition of the method, so nothing can be tried.",
        example="`ensure mergeable` in a method with `d_x / b` and `--set b=0`.",
        runs=False,
    ),
    Code(
        "V813",
        "a promise that a spec does not keep",
        "`report.check()` raises this; the report has the counter-example.",
        example="`ensure identity_at_init` where every tensor starts from a normal.",
        runs=False,
    ),
    Code(
        "V814",
        "a comparison on a whole model that nothing fits",
        "The reference is of a whole model, and no preset has the positions of the method.",
        example="A file with `reference_model`, for a method on `cross_attn.core in encoder`.",
        runs=False,
    ),
)
