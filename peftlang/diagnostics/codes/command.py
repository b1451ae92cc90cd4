"""C7xx: the command line and the choice of a model."""

from peftlang.diagnostics.codes.entry import Code

COMMAND: tuple[Code, ...] = (
    Code(
        "C701",
        "an unknown model",
        "`--model` takes a hub id, a local folder, or a preset; the message lists the presets.",
        example="`peftlang sites --model tiny-lama`.",
        runs=False,
    ),
    Code(
        "C702",
        "a `--set` that is not NAME=VALUE",
        "Each `--set` gives one hyper-parameter one value.",
        example="`peftlang compile lora.peft --set r16`.",
        runs=False,
    ),
    Code(
        "C705",
        "a selector or clause on the command line that does not parse",
        "`--at` takes a selector and `--with` a clause, as in a spec.",
        example="`peftlang compile lora.peft --at attn..q`.",
        runs=False,
    ),
    Code(
        "C709",
        "a pass that does not exist",
        "`--print-before` and `--print-after` name a pass; the message lists them.",
        example="`peftlang compile lora --model tiny-llama -o out --print-after insrt`.",
        runs=False,
    ),
    Code(
        "C706",
        "a model whose graph cannot be read",
        "TorchDynamo could not trace its forward, or is switched off.",
        example="`TORCHDYNAMO_DISABLE=1 peftlang sites --model tiny-llama`.",
        runs=False,
    ),
    Code(
        "C707",
        "inputs that cannot be made",
        "A model without a Hugging Face config does not say what it takes.",
        example='`peftlang.compile(MyModule(), "lora")` without `example_inputs`.',
        runs=False,
    ),
    Code(
        "C708",
        "a model that cannot be loaded",
        "It is there, but its files or its class cannot be used.",
        example="`--model folder/` with a truncated weight file.",
        runs=False,
    ),
)
