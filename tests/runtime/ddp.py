"""Two processes train one adapted model on halves of a batch; the first prints the error.

Arguments: rank, and a file for the processes to meet in.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.architectures.by_hand import (
    PLACES,
    adapted,
    batch,
    distance,
    gradients_by_hand,
    matrices,
    merged,
)

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
model = adapted("tiny-llama")
wrapped = DistributedDataParallel(model)
ids = batch("tiny-llama", rows=4)["input_ids"]
for _ in range(2):
    model.zero_grad()
    wrapped(input_ids=ids[2 * rank : 2 * rank + 2]).logits.square().mean().backward()
reference = merged(model, "tiny-llama")
reference(input_ids=ids).logits.square().mean().backward()
errors = [
    distance(parameter.grad, wanted)
    for place in PLACES["tiny-llama"]
    for parameter, wanted in zip(
        matrices(model, place), gradients_by_hand(reference, model, place), strict=True
    )
    if isinstance(parameter.grad, torch.Tensor)
]
assert len(errors) == 2 * len(PLACES["tiny-llama"])
print(max(errors))
dist.destroy_process_group()
