"""Mutants that mean the same as the spec they come from, each with the reason.

A mutant that survives has to be here, and what is here has to survive: both are tested.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Equivalent:
    """A family of mutants.

    Attributes:
        reason: Why they mean the same.
        pattern: What the changed line is, a regular expression that matches all of it.
        specs: The specs whose mutants they are; empty for all.
    """

    reason: str
    pattern: str
    specs: tuple[str, ...] = ()

    def covers(self, spec: str, line: str) -> bool:
        """Whether a spec's mutant with this changed line is one of them."""
        return (not self.specs or spec in self.specs) and bool(re.fullmatch(self.pattern, line))


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "the base is frozen, so no gradient of W is asked for",
        r".*stop_gradient\(W\).*",
        (
            "boft",
            "diff_pruning",
            "dora",
            "fourierft",
            "goft",
            "hira",
            "hra",
            "kadaptation",
            "loha",
            "lokr",
            "oft",
            "qgoft",
            "soda",
        ),
    ),
    Equivalent(
        "nothing before an embedding trains, so no gradient of its `h` is asked for",
        r".*stop_gradient\(h\).*",
        ("adalink",),
    ),
    Equivalent(
        "sqrt(5) is what `a` is when it is left out",
        r"param \w+\[.*\] ~ kaiming_uniform\((copies = 2)?\)( shared across (layers|stacks))?",
    ),
    Equivalent(
        "`h = h + delta` is the composition where none is written",
        r"without composition h = h \+ delta",
    ),
    Equivalent(
        "the function reads `h`, and never the `x` that the insertion form chooses",
        r"insertion (sequential|parallel)",
        (
            "adalink",
            "adapterfusion",
            "bridger",
            "compacter",
            "control_prefixes",
            "cpe_clip",
            "deep_prompts",
            "deft",
            "difffit",
            "ia3",
            "iaa",
            "late_prompt_tuning",
            "loreft",
            "meet",
            "mixphm",
            "mmrl",
            "mov",
            "multi_head_parallel_adapter",
            "p_tuning",
            "pfeiffer",
            "polyhistor_lite",
            "prefix",
            "prefix_gated",
            "prefix_mlp",
            "prompt_tuning",
            "pvp",
            "road",
            "surm_adapter",
            "uniadapter",
            "uniadapter_cross",
            "vl_adapter",
        ),
    ),
    Equivalent(
        "the use reads `h`, and no `x`, which is all that the insertion form chooses",
        r"(gain|density\(w = w, eps = eps\) at ffn\.act|"
        r"to_(image|text)\(m = m, e = e\) at block in .*|"
        r"(cross|uniadapter)\(r = r, s = s\) at ffn in \w+) with insertion sequential",
        ("bridger", "deft", "difffit", "uniadapter_cross"),
    ),
    Equivalent(
        "what is put before others reads no `x`, which is all that the insertion form chooses",
        r"(prefix\(l = l\) at attn\.core, cross_attn\.core|(first_prompt|places)\(l = l\) at "
        r"prompt) with insertion sequential",
        ("cpe_clip", "deep_prompts", "mam", "mmrl"),
    ),
    Equivalent(
        "elementwise operators align dimensions by name, so a transposed operand is put back",
        r"composition W = W \+ .*transpose\((z|D|delta)\).*",
        ("diff_pruning", "fourierft", "hira", "kadaptation", "loha", "lokr"),
    ),
    Equivalent(
        "a product entry by entry aligns dimensions by name, transposed or not",
        r"function delta = transpose\(W\) \* \(B @ A\)",
        ("hira",),
    ),
    Equivalent(
        "masks align by name with the matrices that they mask",
        r"function delta = sum\(.*transpose\((A|B)\).*, over K\)",
        ("capaboost",),
    ),
    Equivalent(
        "`h = h + delta` is the composition where none is written; a blank line goes with it, and "
        "is what is named",
        r"without ",
        ("vln_petl",),
    ),
    Equivalent(
        "it is sequential already",
        r"(houlsby|history_booster)\(.*\) at (ffn|attn) in encoder with insertion sequential",
        ("vln_petl",),
    ),
    Equivalent(
        "the axis is named, so the sum over it of a transposed stack is the same",
        r"let [AB] = .*sum\(transpose\(p_[AB]\), over n\).*",
        ("vb_lora",),
    ),
    Equivalent(
        "scales align by name with the pairs that they scale",
        r"function turned = transpose\(alpha\) .*",
        ("road",),
    ),
    Equivalent(
        "the first core is of left singular vectors, and sizes beyond its own only reorder the "
        "columns of the matrix that they are of",
        r"param A\[1, n, n, r\] ~ train_core\(W, 1, r, n, (n, d_h / \(n \* n\), n, d_x / "
        r"\(n \* n\), n|d_h / \(n \* n\), n, n, n, d_x / \(n \* n\))\)",
        ("mpo",),
    ),
    Equivalent(
        "heads and widths align by name, so a transposed change is put back",
        r"composition h = .*transpose\((delta|h)\).*",
        ("llama_adapter", "llama_adapter_v2", "multi_head_parallel_adapter", "prefix_gated"),
    ),
    Equivalent(
        "the vectors of the bases align by name with the matrices that they scale",
        r"let V = .*transpose\((lambda|gamma)\).*",
        ("randlora",),
    ),
    Equivalent(
        "a buffer does not train, so no gradient of it is asked for",
        r".*stop_gradient\((A|B)\).*",
        ("randlora", "vera"),
    ),
    Equivalent(
        "a buffer does not train, so no gradient of it is asked for",
        r".*stop_gradient\((M|N|C|U|V|A_0|B_0|s_0)\).*",
        ("capaboost", "mpo", "olora", "pissa", "soda", "svfit", "svft"),
    ),
    Equivalent(
        "places are a buffer, which does not train",
        r"composition h = concat\(stop_gradient\(Z\), h\)",
        ("cpe_clip", "mmrl"),
    ),
    Equivalent(
        "gates are elementwise, and dimensions align by name",
        r"(let z = hard_concrete|penalty beta \* hard_concrete_l0)\(transpose\(log_alpha\)\)",
        ("diff_pruning",),
    ),
    Equivalent(
        "an inner product does not mind the order",
        r"function delta = (\(x @ a \+ c\) \* v|sigmoid\(x @ G\) \* .*)",
        ("adapter_bias", "unipelt"),
    ),
    Equivalent(
        "an inner product does not mind the order",
        r"let g = sigmoid\(pool\(x, causal = false\) @ G\)",
        ("unipelt",),
    ),
    Equivalent(
        "no gradient flows through the outer `stop_gradient` either",
        r"composition W = \(m / stop_gradient\(norm\(stop_gradient\(V\), over d_x\)\)\) \* V",
        ("dora",),
    ),
    Equivalent(
        "the axis is named, so the norm over `d_x` of the transposed matrix is the same",
        r"composition W = \(m / stop_gradient\(norm\(transpose\(V\), over d_x\)\)\) \* V",
        ("dora",),
    ),
    Equivalent(
        "whole numbers have no gradient",
        r".*stop_gradient\((E|task|layer|label|place)\).*",
        (
            "control_prefixes",
            "fourierft",
            "hyperformer",
            "hyperformer_plus",
            "meet",
            "polyhistor",
            "polyhistor_lite",
            "vl_adapter",
        ),
    ),
    Equivalent(
        "it does not matter in which order ids are named",
        r"function delta = dropout\(occurrence\(n, sep, cls\) @ V, p\)",
        ("pasta",),
    ),
    Equivalent(
        "the k largest of those that are kept are the same k",
        r"penalty balance \* [ME] \* sum\(mean\(chosen\((kept|g), k, over [ME]\), over batch\) \* "
        r"mean\(p, over batch\)\)",
        ("perft", "pesc"),
    ),
    Equivalent(
        "no gradient flows to which are the largest",
        r"penalty .*chosen\(stop_gradient\(p\), k, over [ME]\).*",
        ("perft", "pesc"),
    ),
    Equivalent(
        "what a call brings does not train, so no gradient of it is asked for",
        r".*stop_gradient\((a|quality|v)\).*",
        ("petalface", "routing_lora"),
    ),
    Equivalent(
        "it is made of hyper-parameters and the layer's number, which do not train",
        r".*stop_gradient\((mixed|layer)\).*",
        ("mmrl",),
    ),
    Equivalent(
        "a penalty that differs from token to token counts with its mean, and one factor is linear",
        r"penalty balance \* [ME] \* sum\((chosen\(p, k, over [ME]\) \* mean\(p, over batch\)|"
        r"mean\(chosen\(p, k, over [ME]\), over batch\) \* p)\)",
        ("perft", "pesc"),
    ),
    Equivalent(
        "`pool` is of the whole sequence in any case; where that has to be said, the compiler asks",
        r"let g = (softmax\(R @ pool\(x\), over n\)|sigmoid\(G @ pool\(x\)\))",
        ("styleinject", "unipelt"),
    ),
    Equivalent(
        "of zeros and at most one 1 the sum is the largest, and the norm",
        r"composition x = (\(1 - (max|norm)\(s, over l\)\) \* x \+ s @ "
        r"(P|\(G @ transpose\(V\) \+ b\))|"
        r"x \+ mixed \* \(s @ t - (max|norm)\(s, over l\) \* x\))",
        ("cpe_clip", "deep_prompts", "mmrl"),
    ),
    Equivalent(
        "no gradient flows to where a token stands",
        r"composition x = .*stop_gradient\(s\).*",
        ("cpe_clip", "deep_prompts", "mmrl"),
    ),
    Equivalent(
        "each use says where it is, whatever the method's own position",
        r"position .*",
        ("cpe_clip", "deep_prompts", "deft", "llama_adapter_v2", "mmrl", "unipelt"),
    ),
    Equivalent(
        "a role without `.weight` or `.bias` is both",
        r"train (norm, norm\.bias|norm\.weight, norm)",
        ("norm_tuning",),
    ),
    Equivalent(
        "of four entries, the last but one is the third",
        r"let products = .*entries\[-2\].*",
        ("qgoft",),
    ),
    Equivalent(
        "every bias is trained already, those of norms as well", r"train bias, norm", ("difffit",)
    ),
)


def reason_for(spec: str, line: str) -> str | None:
    """Why a mutant is equivalent; None where nothing says that it is."""
    return next((e.reason for e in EQUIVALENT if e.covers(spec, line)), None)
