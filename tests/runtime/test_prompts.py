"""Soft prompts: the same numbers as with virtual tokens in the vocabulary, and as in HF PEFT."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import peftlang
from peftlang.diagnostics import PeftError
from peftlang.models import build
from tests.runtime.virtual_tokens import (
    BOTH_SIDES,
    LENGTH,
    TOKENS,
    extended,
    ids,
    left_padded,
    prompt_of,
    prompted,
    with_virtual,
)

# Dynamo looks for the gradients of what a frame is given, and hides what torch says to that.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")

DECODERS = ["tiny-llama", "tiny-gpt2"]
MODELS = [*DECODERS, "tiny-bert", "tiny-t5", "tiny-bart"]
PER_TASK = """\
method per_task(l: int = 4, tasks: int = 3) {
    input task : index(tasks)
    param P[tasks, l, d_h] ~ normal
    position    prompt
    composition h = concat(P[task], h)
}
"""


def decoder(preset: str) -> dict[str, Tensor]:
    return {"decoder_input_ids": ids(tokens=5, seed=2)} if preset in BOTH_SIDES else {}


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", [*MODELS, "tiny-gemma2", "tiny-roberta", "tiny-mamba"])
def test_same_as_tokens_of_the_vocabulary(preset: str) -> None:
    model = prompted(preset)
    reference = extended(preset, prompt_of(model))
    rows, mask = left_padded()
    longer, longer_mask = with_virtual(rows, mask)
    found = model(input_ids=rows, attention_mask=mask, **decoder(preset)).logits
    wanted = reference(input_ids=longer, attention_mask=longer_mask, **decoder(preset)).logits
    if wanted.dim() == 3 and preset not in BOTH_SIDES:
        assert found.shape[:2] == (2, TOKENS)
        real = mask.bool()
        close(found[real], wanted[:, LENGTH:][real])
    else:
        close(found, wanted)


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-bert", "tiny-t5"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_same_as_peft(preset: str) -> None:
    ours: Any = prompted(preset)
    rows, mask = left_padded()
    theirs: Any = build(preset)
    task = "CAUSAL_LM" if preset in DECODERS else "SEQ_2_SEQ_LM"
    options: dict[str, Any] = {"num_transformer_submodules": 1}
    if preset == "tiny-bert":
        task, ours, theirs = "FEATURE_EXTRACTION", ours.bert, theirs.bert
    prompt = next(p for n, p in _root(ours).named_parameters() if n.endswith(".P"))
    wrapped: Any = get_peft_model(
        theirs, PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH, **options)
    ).eval()
    weight = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(prompt)
    inputs: dict[str, Any] = {"input_ids": rows, "attention_mask": mask}
    if preset != "tiny-bert":
        inputs["labels"] = rows.clone()
    found, wanted = ours(**inputs), wrapped(**inputs)
    if preset == "tiny-bert":
        close(found.last_hidden_state, wanted.last_hidden_state[:, LENGTH:])
        (found.last_hidden_state * mask[..., None]).square().sum().backward()
        (wanted.last_hidden_state[:, LENGTH:] * mask[..., None]).square().sum().backward()
    else:
        close(found.loss, wanted.loss)
        logits = wanted.logits if preset in BOTH_SIDES else wanted.logits[:, LENGTH:]
        close(found.logits, logits)
        found.loss.backward()
        wanted.loss.backward()
    close(prompt.grad, weight.grad)
    assert prompt.grad.abs().max() > 0


def _root(model: Any) -> Any:
    return model if model.__dict__.get("_peftlang") else model._peftlang_dispatch.calls.values.root


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-t5"])
def test_results_have_the_shapes_of_the_base(preset: str) -> None:
    model: Any = build(preset, attn_implementation="eager")
    base: Any = build(preset, attn_implementation="eager")
    peftlang.compile(model, "prompt_tuning", l=LENGTH)
    rows, mask = left_padded()
    asked: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True}
    inputs = {"input_ids": rows, "attention_mask": mask} | decoder(preset) | asked
    with torch.no_grad():
        assert _shapes(model(**inputs)) == _shapes(base(**inputs))
        found = model(**inputs, return_dict=False)
        assert type(found) is tuple
        assert _shapes(found) == _shapes(base(**inputs, return_dict=False))
        by_place = model(rows, mask, **decoder(preset))
        assert torch.equal(by_place.logits, model(**inputs).logits)


def _shapes(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {key: _shapes(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_shapes, value))
    return type(value).__name__


def test_attention_to_a_cache_leaves_the_prompt_out() -> None:
    model: Any = build("tiny-llama", attn_implementation="eager")
    peftlang.compile(model, "prompt_tuning", l=LENGTH)
    first = model(ids())
    then = model(ids(tokens=1), past_key_values=first.past_key_values, output_attentions=True)
    assert then.attentions[0].shape == (2, 4, 1, TOKENS + 1)


def test_logits_of_chosen_tokens() -> None:
    model: Any = prompted("tiny-llama")
    every = model(ids()).logits
    close(model(ids(), logits_to_keep=3).logits, every[:, -3:])
    close(model(ids(), logits_to_keep=TOKENS + 2).logits, every)
    kept = torch.tensor([0, 5, -1])
    close(model(ids(), logits_to_keep=kept).logits, every[:, kept])


@pytest.mark.parametrize("preset", ["tiny-gemma2", "tiny-t5"])
def test_embeddings_instead_of_ids(preset: str) -> None:
    model: Any = prompted(preset)
    rows = ids()
    with peftlang.disabled(model):
        embeds = model.get_input_embeddings()(rows)
    close(
        model(inputs_embeds=embeds, **decoder(preset)).logits,
        model(input_ids=rows, **decoder(preset)).logits,
    )


def test_inner_doors() -> None:
    model: Any = prompted("tiny-llama")
    rows, mask = left_padded()
    inner = model.model(rows, attention_mask=mask).last_hidden_state
    assert inner.shape[1] == TOKENS
    with peftlang.disabled(model):
        logits = model.lm_head(inner)
    assert torch.equal(logits, model(rows, attention_mask=mask).logits)


@pytest.mark.parametrize("preset", ["tiny-t5"])
def test_an_encoder_alone_keeps_what_its_decoder_reads(preset: str) -> None:
    model: Any = prompted(preset)
    rows, mask = left_padded()
    states = model.get_encoder()(input_ids=rows, attention_mask=mask).last_hidden_state
    assert states.shape[1] == TOKENS + LENGTH
    outputs = BaseModelOutput(last_hidden_state=states)
    found = model(encoder_outputs=outputs, attention_mask=mask, **decoder(preset)).logits
    whole = model(input_ids=rows, attention_mask=mask, **decoder(preset))
    close(found, whole.logits)
    assert whole.encoder_last_hidden_state.shape[1] == TOKENS


def test_classification_reads_the_last_token_that_is_no_padding() -> None:
    config: Any = build("tiny-llama").config
    config.num_labels = 3
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    peftlang.compile(model, "prompt_tuning", l=LENGTH)
    rows = ids()
    rows[1, 4:] = 0
    labels = torch.tensor([0, 2])
    both = model(input_ids=rows, attention_mask=(rows != 0).long(), labels=labels)
    alone = model(input_ids=rows[1:, :4])
    assert both.logits.shape == (2, 3)
    close(both.logits[1], alone.logits[0])


def test_answers_are_found_behind_the_prompt() -> None:
    config: Any = build("tiny-bert").config
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering(config).eval()
    peftlang.compile(model, "prompt_tuning", l=LENGTH)
    places = torch.tensor([2, 3])
    out = model(input_ids=ids(), start_positions=places, end_positions=places + 1)
    assert out.start_logits.shape == (2, TOKENS)
    likeliest = model(
        input_ids=ids(),
        start_positions=out.start_logits.argmax(1),
        end_positions=out.end_logits.argmax(1),
    )
    assert likeliest.loss < out.loss


def test_several_prompts_act_in_order() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), "prompt_tuning", l=LENGTH)
    only = model(ids()).logits
    peftlang.compile(model, "prompt_tuning", l=2, adapter_name="second", init_seed=3)
    outer, inner = prompt_of(model, "second"), prompt_of(model)
    found = model(ids()).logits
    assert found.shape == only.shape
    joined: Any = peftlang.compile(build("tiny-llama"), "prompt_tuning", l=LENGTH + 2)
    with torch.no_grad():
        prompt_of(joined).copy_(torch.cat([outer, inner]))
    close(found, joined(ids()).logits)
    peftlang.set_active(model, "default")
    assert torch.equal(model(ids()).logits, only)
    peftlang.remove(model, "second")
    peftlang.remove(model, "default")
    assert torch.equal(model(ids()).logits, build("tiny-llama")(ids()).logits)
    assert "prepare_inputs_for_generation" not in model.__dict__


def test_a_prompt_for_each_row() -> None:
    model: Any = peftlang.compile(build("tiny-llama"), PER_TASK)
    rows = ids()
    both = model(rows, task=torch.tensor([0, 2])).logits
    close(both[1:], model(rows[1:], task=2).logits)
    assert not torch.allclose(both[1:], model(rows[1:], task=1).logits, atol=1e-4)


def test_a_model_without_a_sequence_has_no_place_for_a_prompt() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(PeftError, match="token ids") as caught:
        peftlang.compile(model, "prompt_tuning", example_inputs={"input": torch.zeros(3, 2)})
    assert caught.value.code == "S407"


def test_only_something_before_the_sequence() -> None:
    spec = PER_TASK.replace("concat(P[task], h)", "concat(h, P[task])")
    with pytest.raises(PeftError) as caught:
        peftlang.compile(build("tiny-llama"), spec)
    assert caught.value.code == "S411"


def test_a_mask_for_each_pair_of_tokens() -> None:
    model: Any = prompted("tiny-llama")
    with pytest.raises(PeftError) as caught:
        model(ids(), attention_mask=torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool))
    assert caught.value.code == "R515"


def test_half_precision_and_checkpointing() -> None:
    model: Any = build("tiny-llama").to(torch.bfloat16)
    peftlang.compile(model, "prompt_tuning", l=LENGTH, param_dtype=torch.float32)
    out = model(ids(), labels=ids())
    out.loss.backward()
    assert out.logits.dtype is torch.bfloat16
    assert prompt_of(model).grad is not None
    plain: Any = peftlang.compile(build("tiny-llama"), "prompt_tuning", l=LENGTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert plain(ids()).logits.dtype is torch.bfloat16
    plain(ids(), labels=ids()).loss.backward()
    wanted = prompt_of(plain).grad
    prompt_of(plain).grad = None
    plain.train()
    plain.activation_checkpointing_enable()
    plain(ids(), labels=ids(), use_cache=False).loss.backward()
    found = prompt_of(plain).grad
    assert found is not None
    assert wanted is not None
    close(found, wanted)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("default")
def test_inner_backends_with_varying_sizes(backend: str) -> None:
    for spec in ("prompt_tuning", PER_TASK) if backend == "aot_eager" else (PER_TASK,):
        model: Any = peftlang.compile(build("tiny-llama"), spec, backend=backend)
        plain: Any = peftlang.compile(build("tiny-llama"), spec)
        for batch, tokens in ((2, 7), (3, 9), (4, 11)):
            rows = ids(batch=batch, tokens=tokens)
            task = {"task": torch.arange(batch) % 3} if spec is PER_TASK else {}
            found, wanted = (m(rows, labels=rows, **task) for m in (model, plain))
            close(found.logits, wanted.logits)
            found.loss.backward()
            wanted.loss.backward()
            close(prompt_of(model).grad, prompt_of(plain).grad)  # type: ignore[arg-type]


def test_trainer(tmp_path: Path) -> None:
    model: Any = peftlang.compile(build("tiny-llama"), "prompt_tuning", l=LENGTH)
    before = prompt_of(model).detach().clone()
    rows = [{"input_ids": row, "labels": row} for row in ids(batch=4)]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            learning_rate=0.1,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    assert not torch.equal(prompt_of(model), before)
    predicted = trainer.predict(rows)  # type: ignore[arg-type]
    logits: Any = predicted.predictions
    assert logits.shape[:2] == (4, TOKENS)
