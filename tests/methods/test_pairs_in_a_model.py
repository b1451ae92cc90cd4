"""Two adapters together compute what their references say one after the other.

What one does reaches the other where the model hands it on: a projection reads a changed
activation, a sub-layer gives out what its last projection was made to give. References are called
by hooks on a plain model, as in `test_in_a_model`; at one module hooks run in the order of the
adapters, and those of an outer position after those of the inner ones.
"""

import copy
import itertools
from typing import Any

import pytest
from torch import Tensor, nn
from torch.func import functional_call

import peftlang
from peftlang.ir.plan import TRAINED
from peftlang.models import build, example_inputs
from peftlang.verifying.adapted_model import varied
from peftlang.verifying.references.python_reference import PythonReference
from tests import adapting
from tests.adapting import NAME
from tests.methods.harness import randomise, spec
from tests.methods.library_specs import small_arguments
from tests.methods.references.anatomy import ANATOMIES
from tests.methods.references.in_place import InPlace, gradients
from tests.methods.references.weights import relative_error
from tests.methods.test_in_a_model import CLOSE, numbers, with_special_tokens
from tests.oracles.plain import REFERENCES

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

PRESET, SECOND = "tiny-gpt2", "second"

ACTING = (
    "lora",
    "ia3",
    "miss",
    "adapter_bias",
    "road",
    "adalink",
    "prefix",
    "parallel_adapter",
    "pfeiffer",
    "houlsby",
    "pasta",
    "loreft",
)
"""At projections, what they read and give, embeddings, attention, sub-layers and whole layers."""

OUTER = {"parallel_adapter": 1, "pfeiffer": 1, "houlsby": 1, "loreft": 2}

REMADE = ("llama_adapter_v2", "diff_pruning")
"""These change what projections read, and their weights: a hook makes the output anew."""

UNSEEN = {"lora", "miss", "adapter_bias", "prefix"}
"""What reads the changed operand, or acts on the product that the first adapter has."""

PAIRS = [
    *itertools.permutations(ACTING, 2),
    *((first, then) for first in REMADE for then in ACTING if then not in UNSEEN),
]


def base() -> nn.Module:
    return build(PRESET).double().eval()


def adapted(pair: tuple[str, str]) -> tuple[nn.Module, list[Any]]:
    first, then = map(spec, pair)
    model, one = adapting.adapted(base(), first, **small_arguments(first))
    peftlang.compile(model, then, adapter_name=SECOND, **small_arguments(then))
    adapters = [one, peftlang.adapters(model)[SECOND]]
    peftlang.set_active(model, NAME, SECOND)
    for seed, adapter in enumerate(adapters):
        randomise(adapter.tensors(), seed=seed, scale=0.1)
    return model, adapters


def by_hooks(
    plain: nn.Module, pair: tuple[str, str], adapters: list[Any], inputs: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and gradients by the adapter's place and the tensor's name."""
    model = copy.deepcopy(plain).requires_grad_(False)
    leaves: dict[str, Tensor] = {}
    trained: dict[str, Tensor] = {}
    for at in sorted((0, 1), key=lambda at: OUTER.get(pair[at], 0)):
        reference = PythonReference(REFERENCES / f"{pair[at]}.py")
        tensors = dict(adapters[at].tensors())
        there = InPlace(model, ANATOMIES[PRESET], adapters[at].plan, reference, tensors, {})
        there.inputs = inputs
        leaves |= {f"{at}.{name}": leaf for name, leaf in there.leaves.items()}
        trained |= {name: there.leaves[f"{TRAINED}.{name}"] for name in there.plan.train}
    output = functional_call(model, trained, (), inputs).logits
    return output.detach(), gradients(output, leaves)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_adapters_act_as_their_references_do(pair: tuple[str, str]) -> None:
    plain = base()
    inputs = numbers(with_special_tokens(varied(example_inputs(plain), plain)))
    model, adapters = adapted(pair)
    wanted, slopes = by_hooks(plain, pair, adapters, inputs)
    output = model(**inputs).logits
    named = {f"{at}.{n}": t for at in (0, 1) for n, t in adapters[at].tensors().items()}
    got = gradients(output, named)
    assert relative_error(output.detach(), wanted) < CLOSE
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    assert max(float((got[name] - slope).abs().max()) for name, slope in slopes.items()) <= (
        CLOSE * largest
    )
