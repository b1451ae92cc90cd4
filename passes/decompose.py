"""decompose: write out `torch.nn.MultiheadAttention`, which a graph holds as one opaque node.

Requires: a graph that was recorded with the fused inference kernels switched off. Ensures: no
`multi_head_attention_forward` is left; projections, scores and the product are nodes of their own,
and the graph computes what it did, dropout's random numbers included.
"""

from peftlang.dataflow.multihead import write_out
from peftlang.emit.rewriting import Rewriting


def decompose(work: Rewriting) -> None:
    """Write out what a graph holds as one node.

    Raises:
        PeftError: S407, as `write_out`.
    """
    write_out(work.graph)
