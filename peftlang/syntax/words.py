"""The words of the language, and how what they begin looks."""

CLAUSES = {
    "param": "param A[r, d_x] ~ zeros",
    "buffer": "buffer E[n, 2] ~ zeros",
    "input": "input task : index(tasks)",
    "carry": "carry z[d_h] ~ zeros",
    "tap": "tap y[d_h] = block.h in layers[layer - 1]",
    "let": "let V = W + 1",
    "position": "position attn.q, attn.v",
    "function": "function delta = B @ (A @ x)",
    "insertion": "insertion parallel",
    "composition": "composition h = h + delta",
    "sharing": "sharing A, B across model",
    "penalty": "penalty beta * sum(A)",
    "rate": "rate B = 16",
    "ensure": "ensure identity_at_init, mergeable",
}
ITEMS = {
    "from": 'from "lora.peft" import lora',
    "method": "method lora(r: int = 8) {",
    "adapter": "adapter mam(r: int = 8) {",
}
TRAIN = "train norm.weight, norm.bias"
USE = "lora(r = 8) at attn.q with insertion parallel"
CONNECTORS = (
    *("import", "as", "shared", "across", "at", "with"),
    *("in", "except", "where", "and", "or", "over"),
)
RESERVED = ("allocate", "select")

# The types of the tokens that the grammar makes of them.
CLAUSE_TYPES = frozenset(word.upper() for word in (*CLAUSES, "train"))
ITEM_TYPES = frozenset(word.upper() for word in ITEMS)
CONNECTOR_TYPES = frozenset(word.upper() for word in CONNECTORS)
