"""What every spec of the standard library does, whatever it is, on every kind of model.

There is no Python here for any one spec: a new file in `specs/` is tested by being there. Every
spec is run on the cheapest kind of model that has its positions; one of each kind of change (see
`library_specs`) on every kind of model, and in every way of running.
"""

import contextlib
import copy
import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftlang
from peftlang.ir.expr import Apply, postorder
from peftlang.ir.positions import POSITIONS
from peftlang.ir.reach import mixing
from peftlang.models import PRESETS
from tests.adapting import NAME, adapted
from tests.methods import harness
from tests.methods.library_specs import (
    alternatives,
    layers,
    library,
    needs,
    one_of_each_kind,
    one_of_each_way,
    promises,
    small_arguments,
    trains,
)

NO_SITE = {"S402", "S405", "S407", "S412", "S413", "S415", "S416"}

# Dynamo looks at `.grad` of a graph's inputs after a graph break and hides the warning, which an
# error filter turns into an exception before it can be hidden.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

_CROSS = {role for role in POSITIONS if role.startswith("cross_attn")}
_DENSE = {role for role in POSITIONS if not role.startswith(("expert", "router"))}
ROLES: dict[str, set[str]] = {
    "tiny-bert": _DENSE - _CROSS - {"ffn.gate"},
    "tiny-llama": _DENSE - _CROSS,
    "tiny-t5": _DENSE,
    "tiny-vit": _DENSE - _CROSS - {"ffn.gate"},
    "tiny-mamba": {"linear", "head", "norm", "embed", "block", "prompt"},
}
"""What each kind of model has, by hand."""

SEQUENCES = {
    "tiny-bert": {"ids", "soft"},
    "tiny-llama": {"ids", "soft"},
    "tiny-t5": {"ids"},
    "tiny-vit": {"conv2", "soft"},
    "tiny-mamba": {"ids", "soft"},
}
"""What the tokens of every layer of each kind of model have."""

KINDS = ("tiny-bert", "tiny-llama", "tiny-t5", "tiny-vit")
LAYERS = {"tiny-t5": "num_layers"}


def shallow(preset: str, layers: int = 1) -> nn.Module:
    """The preset with few layers, a seed of its own, in evaluation mode."""
    whole = PRESETS[preset]
    options = (whole.options or {}) | {LAYERS.get(preset, "num_hidden_layers"): layers}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(whole, options=options).build().eval()


@dataclass
class Subject:
    """A spec on a model, its tensors moved away from where they start."""

    spec: Path
    preset: str
    model: nn.Module
    adapter: Any
    start: dict[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(self.adapter.tensors())

    @property
    def trainable(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.tensors.items() if t.requires_grad}

    def batch(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        whole = harness.batch(self.preset) | extra_inputs(self.adapter)
        return {name: value[rows] for name, value in whole.items()}

    def base(self) -> Tensor:
        frozen = shallow(self.preset, layers(self.spec)).requires_grad_(False)
        return logits(frozen, harness.batch(self.preset))

    def generated(self, *, use_cache: bool) -> Tensor:
        """Four more tokens, greedily, for a batch that is padded on the left."""
        whole = harness.batch(self.preset)
        inputs = {
            "input_ids": whole["input_ids"],
            "attention_mask": whole["attention_mask"].flip(1),
        }
        options = {"max_new_tokens": 4, "do_sample": False, "use_cache": use_cache}
        extra = extra_inputs(self.adapter)
        with peftlang.inputs(self.model, **extra) if extra else contextlib.nullcontext():
            made: Tensor = self.model.generate(**inputs, **options)  # type: ignore[operator]
        return made

    def depends_on_the_prompt(self) -> bool:
        """Whether the spec asks which tokens are the prompt's, which only a cache can tell."""
        methods = [use.method for use in self.adapter.plan.spec.uses]
        values = [c.value for method in methods for c in method.compositions]
        return any(isinstance(e, Apply) and e.op == "tokens" for e in postorder(*values))


def extra_inputs(adapter: Any) -> dict[str, Tensor]:
    """A value for every `input` that the spec declares, different for the two rows."""
    found = {}
    for use in adapter.plan.spec.uses:
        sizes = {name: value for name, value in use.args.items() if isinstance(value, int)}
        for one in use.method.inputs:
            own = [dim.evaluate(sizes) for dim in one.dims]
            count = 2 * math.prod(own)
            values = torch.arange(count).reshape(2, *own)
            whole = one.kind in {"index", "int"}
            found[one.name] = values.flip(0) % 2 if whole else (values + 1) / count
    return found


def subject(spec: Path, preset: str, dtype: torch.dtype = torch.float32) -> Subject:
    base = shallow(preset, layers(spec)).to(dtype)
    model, adapter = adapted(base, spec, **small_arguments(spec))
    start = {name: t.detach().clone() for name, t in adapter.tensors().items()}
    harness.randomise(adapter.tensors(), scale=0.1)
    return Subject(spec, preset, model, adapter, start)


@functools.cache
def _own_names(preset: str) -> frozenset[str]:
    """What the preset's parameters are called in their modules: `weight`, `bias`."""
    return frozenset(n.rpartition(".")[2] for n, _ in shallow(preset).named_parameters())


def has_the_positions(spec: Path, preset: str) -> bool:
    kinds = _own_names(preset)
    needed = [places & ROLES[preset] for places in alternatives(spec)]
    if not needs(spec) <= SEQUENCES[preset]:
        return False
    return all(needed) and (not trains(spec) or bool(trains(spec) & kinds))


SOMEWHERE = [spec for spec in library() if any(has_the_positions(spec, p) for p in KINDS)]
"""What needs experts, or two towers, is on none of these models, and is tested on others:
`tests/runtime/test_experts.py`, `tests/streams/test_two_towers.py`."""
STAND_FOR_OTHERS, TYPICAL = one_of_each_kind(SOMEWHERE), one_of_each_way(SOMEWHERE)
ATTENDED = {p for p in STAND_FOR_OTHERS if set().union(*alternatives(p)) & {"attn.core", "prompt"}}
PAIRS = list(itertools.product(library(), KINDS))
PLACED = [
    pair
    for spec in library()
    for index, pair in enumerate((spec, p) for p in KINDS if has_the_positions(spec, p))
    if index == 0 or spec in STAND_FOR_OTHERS
]
"""Every spec on one kind of model, and those that stand for others on every kind."""

_MISPLACED = {
    (tuple(map(frozenset, alternatives(spec))), frozenset(trains(spec)), preset): (spec, preset)
    for spec, preset in PAIRS + list(itertools.product(library(), ["tiny-mamba"]))
    if not has_the_positions(spec, preset)
}
MISPLACED = list(_MISPLACED.values())
"""Every selector of the library on every kind of model that has nothing for it."""


def _name(value: Any) -> str:
    spec, preset = value
    return f"{spec.stem}-{preset.removeprefix('tiny-')}"


@pytest.fixture(scope="module", params=PLACED, ids=_name)
def on(request: pytest.FixtureRequest) -> Subject:
    return subject(*request.param)


@pytest.fixture
def still(on: Subject) -> Iterator[Subject]:
    """The subject in evaluation mode with no gradients, as every test finds it."""
    on.model.eval()
    yield on
    on.model.eval().zero_grad()


@pytest.fixture
def first(still: Subject) -> Subject:
    """The subject on its first kind of model, for what does not depend on the kind."""
    if (still.spec, still.preset) != next(pair for pair in PLACED if pair[0] == still.spec):
        pytest.skip("tested on another kind of model")
    return still


@pytest.fixture
def typical(first: Subject) -> Subject:
    """The subject where it stands for others that are called in the same way."""
    if first.spec not in TYPICAL:
        pytest.skip("another spec is called in the same way")
    return first


def logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """With gradients on, so that the graph is the one that trains."""
    found: Tensor = model(**inputs).logits
    return found.detach()


@pytest.mark.parametrize("pair", MISPLACED, ids=_name)
def test_a_model_without_the_position_is_an_error(pair: tuple[Path, str]) -> None:
    spec, preset = pair
    model = shallow(preset, layers(spec))
    with pytest.raises(peftlang.PeftError) as error:
        peftlang.compile(model, spec, **small_arguments(spec))
    assert error.value.code in NO_SITE
    assert not peftlang.adapters(model)


def test_starts_where_it_promises(still: Subject) -> None:
    if alternatives(still.spec) and not promises(still.spec, "identity_at_init"):
        pytest.skip("promises no identity")
    moved = {name: t.detach().clone() for name, t in still.tensors.items()}
    _set(still.tensors, still.start)
    got = logits(still.model, still.batch())
    _set(still.tensors, moved)
    assert torch.equal(got, still.base())


def _set(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])


def test_gradients_reach_every_parameter_and_no_other(still: Subject) -> None:
    still.model(**still.batch()).loss.backward()
    silent = [name for name, t in still.trainable.items() if t.grad is None or not t.grad.any()]
    assert not silent
    ours = {id(t) for t in still.trainable.values()}
    assert {id(p) for p in still.model.parameters() if p.grad is not None} == ours
    assert {id(p) for p in still.model.parameters() if p.requires_grad} == ours


def test_acts_and_can_be_disabled(still: Subject) -> None:
    base = still.base()
    assert not torch.equal(logits(still.model, still.batch()), base)
    with peftlang.disabled(still.model):
        assert torch.equal(logits(still.model, harness.batch(still.preset)), base)
    assert not torch.equal(logits(still.model, still.batch()), base)


def test_generates_the_same_with_and_without_a_cache(still: Subject) -> None:
    if still.spec not in TYPICAL | ATTENDED:
        pytest.skip("another spec makes the same kind of change")
    special = set().union(*alternatives(still.spec)) & ({"prompt"} | _CROSS)
    if still.preset != "tiny-llama" and not (still.preset == "tiny-t5" and special):
        pytest.skip("does not generate, or no differently from a decoder alone")
    if any(mixing(use.method) for use in still.adapter.plan.spec.uses):
        with pytest.raises(peftlang.PeftError) as error:
            still.generated(use_cache=True)
        assert error.value.code == "R520"
        assert still.generated(use_cache=False).shape[1] > 1
        return
    cached = still.generated(use_cache=True)
    assert cached.shape[1] > 1
    if not still.depends_on_the_prompt():
        assert torch.equal(cached, still.generated(use_cache=False))


def test_saves_and_loads_bit_for_bit(first: Subject, tmp_path: Path) -> None:
    peftlang.save(first.model, tmp_path / "saved", adapter_name=NAME)
    loaded = peftlang.load(shallow(first.preset, layers(first.spec)), tmp_path / "saved")
    again = harness.only_adapter(loaded).tensors()
    assert again.keys() == first.tensors.keys()
    assert all(torch.equal(again[name], t) for name, t in first.tensors.items())
    if first.spec in TYPICAL:
        assert torch.equal(logits(loaded, first.batch()), logits(first.model, first.batch()))


def test_trains_and_evaluates_again(typical: Subject) -> None:
    before = logits(typical.model, typical.batch())
    typical.model.train()
    typical.model(**typical.batch()).loss.backward()
    silent = [name for name, t in typical.trainable.items() if t.grad is None or not t.grad.any()]
    assert not silent
    typical.model.eval()
    assert torch.equal(logits(typical.model, typical.batch()), before)


def test_a_row_alone_and_without_its_padding(typical: Subject) -> None:
    """The second row of the batch, which is padded, is what it is by itself."""
    together = logits(typical.model, typical.batch())[1:]
    alone = typical.batch(slice(1, 2))
    if "attention_mask" in alone:
        cut = {"input_ids", "attention_mask"}
        cut |= set() if typical.preset == "tiny-t5" else {"labels"}
        alone = {k: v[:, : harness.SHORT] if k in cut else v for k, v in alone.items()}
        together = together[:, : harness.SHORT]
    torch.testing.assert_close(logits(typical.model, alone), together, rtol=1e-4, atol=1e-5)


def test_a_copy_is_a_model_of_its_own(typical: Subject) -> None:
    before = logits(typical.model, typical.batch())
    twin = copy.deepcopy(typical.model)
    assert torch.equal(logits(twin, typical.batch()), before)
    for tensor in peftlang.adapters(twin)[NAME].parameters().values():
        tensor.data.mul_(2.0).add_(0.1)
    assert not torch.equal(logits(twin, typical.batch()), before)
    assert torch.equal(logits(typical.model, typical.batch()), before)


@pytest.mark.parametrize("spec", sorted(STAND_FOR_OTHERS), ids=lambda path: path.stem)
def test_half_precision_stays_finite(spec: Path) -> None:
    preset = next(p for p in KINDS if has_the_positions(spec, p))
    half = subject(spec, preset, torch.bfloat16)
    out = half.model(**half.batch())
    out.loss.backward()
    gradients = [t.grad for t in half.trainable.values()]
    assert out.logits.dtype is torch.bfloat16
    assert torch.isfinite(out.logits).all()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
