"""What a person gives as `example_inputs` that is not what a forward takes by name."""

import pytest
import torch
from torch import nn

import peftlang
from peftlang import PeftError


@pytest.mark.parametrize("given", [(torch.zeros(1, 2),), torch.zeros(1, 2), ["x"]])
def test_inputs_without_names_are_refused(given: object) -> None:
    with pytest.raises(PeftError, match="not a dict") as caught:
        peftlang.compile(nn.Linear(2, 2), "lora", example_inputs=given)  # type: ignore[arg-type]
    assert caught.value.code == "C707"
