"""R5xx: an adapted model while it runs."""

from peftlang.diagnostics.codes.entry import Code

RUNTIME: tuple[Code, ...] = (
    Code(
        "R501",
        "a call that would have run the base without its adapter",
        "The compiler in torch gave up on this call, and the base alone would have answered.",
        example="A forward with `TORCHDYNAMO_DISABLE=1` in the environment.",
        runs=False,
    ),
    Code(
        "R502",
        "a site that was not found in a captured graph",
        "The site's module ran, but its computation is not where the plan expects it.",
        example="A forward that replaces the attention function after compiling.",
        runs=False,
    ),
    Code(
        "R503",
        "an input that was not given",
        "The spec declares an `input`, which the caller supplies with each call.",
        example="`input task : index(tasks)`, and a forward with no `task`.",
        runs=False,
    ),
    Code(
        "R504",
        "an unknown adapter",
        "No adapter of this name is on the model; the message lists those that are.",
        example='`peftlang.disabled(model, "lorra")` with an adapter named `lora`.',
        runs=False,
    ),
    Code(
        "R505",
        "a model that has no adapter",
        "The call needs a model that `peftlang.compile` or `peftlang.load` has adapted.",
        example='`peftlang.save(model, "out")` on a plain model.',
        runs=False,
    ),
    Code(
        "R507",
        "too many kinds of input",
        "Torch compiles a frame anew for each kind of input; past the limit the base alone "
        "would answer, so the call is refused instead.",
        example="`recompile_limit=2` and a third set of keyword arguments.",
        runs=False,
    ),
    Code(
        "R508",
        "an unknown inner backend",
        "`backend` names what runs the rewritten graphs: `eager`, `inductor`, or another backend "
        "of torch.compile.",
        example='`peftlang.compile(model, "lora", backend="inducter")`.',
        runs=False,
    ),
    Code(
        "R509",
        "an adapted model cannot be pickled",
        "What is compiled for it belongs to this process; the adapter is saved as a folder.",
        example='`torch.save(model, "model.pt")` on an adapted model.',
        runs=False,
    ),
    Code(
        "R510",
        "a graph met weights that are not its own",
        "A module or parameter was replaced after the graph was recorded.",
        example="`model.lm_head = other` between two calls.",
        runs=False,
    ),
    Code(
        "R511",
        "a name that an adapter cannot have",
        "Names of adapters on a model are unique, with no dot or plus, and none of torch's own.",
        example='`peftlang.compile(model, "lora")` twice without `adapter_name`.',
        runs=False,
    ),
    Code(
        "R512",
        "an input that does not fit its declaration",
        "It has another shape, another type of number, or lies outside of its range.",
        example="`model(..., task=9)` where the spec says `input task : index(8)`.",
        runs=False,
    ),
    Code(
        "R513",
        "a change that is no change of weights",
        "Merging needs each site to be affine in what its own projection reads.",
        example="`peftlang.merge(model)` with a bottleneck adapter, which has a non-linearity.",
        runs=False,
    ),
    Code(
        "R514",
        "no merge to undo",
        "Weights are kept for `unmerge` only when asked for.",
        example="`peftlang.unmerge(model)` after `peftlang.merge(model)` without `keep=True`.",
        runs=False,
    ),
    Code(
        "R515",
        "a call that leaves no room for a prompt",
        "Soft prompts and chosen tokens need a mask with one entry per token, and a cache that "
        "the same prompts filled.",
        example="`model(ids, attention_mask=mask)` with a mask `[batch, 1, tokens, tokens]`.",
        runs=False,
    ),
    Code(
        "R516",
        "tokens that are not the model's input",
        "`tokens(first, last)` speaks of the sequence that the model is given, and the site has "
        "another.",
        example="`loreft` at a layer that halves the sequence.",
        runs=False,
    ),
    Code(
        "R517",
        "a call that gives no token ids",
        "A method chooses tokens by their ids, and this call brings embeddings, or is of a part "
        "of the model that sees no ids.",
        example="`model(inputs_embeds=...)` with a spec that has `token_is(5)`.",
        runs=False,
    ),
    Code(
        "R518",
        "soft tokens that are not there",
        "`soft(n)` is read, and fewer than n soft tokens are put before the sequence.",
        example="`soft(10)` beside `prompt_tuning` with `l = 5`, or with no prompt at all.",
        runs=False,
    ),
    Code(
        "R519",
        "patches that the graph does not show",
        "`conv2` reads the grid of patches off the graph in which the image is cut.",
        example="`model.vit.layers[0](states)`, one layer by itself.",
        runs=False,
    ),
    Code(
        "R520",
        "earlier tokens that a cache does not hold",
        "A function along the sequence needs the tokens before the newest, and a cache holds keys "
        "and values alone.",
        example="`model.generate(ids)` with a spec that has `conv(x, K)`.",
        runs=False,
    ),
    Code(
        "R521",
        "a value of another site that this call has not made",
        "Taps and carried states live within one call of the model.",
        example="One layer called by itself, with a method that taps the layer before it.",
        runs=False,
    ),
)
