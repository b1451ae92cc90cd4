"""I9xx: other libraries' adapters."""

from peftlang.diagnostics.codes.entry import Code

INTEROP: tuple[Code, ...] = (
    Code(
        "I901",
        "a PEFT folder that is not there",
        "The path is no folder, or the folder lacks `adapter_config.json` or the tensors as "
        "safetensors. Pickled tensors are not read, since reading them can run code.",
        example="`peftlang convert nowhere --model tiny-llama -o out`.",
        runs=False,
    ),
    Code(
        "I902",
        "a PEFT folder that is damaged",
        "A file of the folder is cut short, is no JSON, or names no `peft_type`.",
        example="An `adapter_config.json` that ends in the middle of a line.",
        runs=False,
    ),
    Code(
        "I903",
        "a PEFT method without correspondence",
        "No method of ours is known to compute what this `peft_type` does; the message says why "
        "where that is known.",
        example='`"peft_type": "ADALORA"`, whose ranks change while it trains.',
        runs=False,
    ),
    Code(
        "I904",
        "a PEFT option without correspondence",
        "The option changes what the adapter computes, and cannot be said here. Options are never "
        "ignored: merging the adapter with PEFT keeps its effect.",
        example='`"lora_bias": true`, or `"alora_invocation_tokens": [5, 7]`.',
        runs=False,
    ),
    Code(
        "I905",
        "a module that the model has not",
        "The configuration targets a module that this model does not have, does not run, or that "
        "is of another kind: most often another base model is needed.",
        example='`"target_modules": ["query"]` for a model whose projections are `q_proj`.',
        runs=False,
    ),
    Code(
        "I906",
        "tensors that are missing or left over",
        "The tensors of the folder are not those that its configuration speaks of.",
        example="A folder whose `lora_B` of one layer was lost.",
        runs=False,
    ),
    Code(
        "I907",
        "tensors that do not fit",
        "A tensor has not the shape that the model and the configuration ask for.",
        example="An adapter of a model of width 4096 on one of width 2048.",
        runs=False,
    ),
    Code(
        "I908",
        "a method that PEFT has not",
        "At some site the adapter computes what no method of PEFT does. Its name plays no part: an "
        "edited LoRA is no LoRA. Merged, or as LoRA with a stated error, it can be exported.",
        example="A LoRA with a gate, `delta = sigmoid(g @ x) * (B @ (A @ x))`.",
        runs=False,
    ),
    Code(
        "I909",
        "an adapter that PEFT cannot arrange",
        "Each site alone has a method in PEFT, and together they are no PEFT adapter: several "
        "methods at once, one module adapted twice, a module trained in part.",
        example="A prefix and a LoRA in one adapter.",
        runs=False,
    ),
    Code(
        "I910",
        "PEFT is not installed",
        "Comparing with `hf:NAME` runs that library. Reading and writing its folders does not.",
        example="`peftlang verify lora --against hf:lora` without `pip install peft`.",
        runs=False,
    ),
)
