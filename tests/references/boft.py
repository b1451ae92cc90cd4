"""BOFT: Liu et al. 2024, section 5: rotations of blocks, with a permutation around each factor."""

import torch
from torch.nn.functional import linear


def reference(site, params, x, W, b):
    rotation = eye = torch.eye(W.shape[1], dtype=W.dtype)
    small = torch.eye(site.b, dtype=W.dtype)
    for stage, factor in enumerate((params.Q - params.Q.mT) / 2):
        blocks = (small - factor) @ torch.linalg.inv(small + factor)
        shuffle = eye[_order(W.shape[1], site.b, stage)]
        rotation = shuffle @ torch.block_diag(*blocks) @ shuffle.T @ rotation
    return linear(x, params.s.diag() @ W @ rotation.T, b)


def _order(width, block, stage):
    """Inside groups of block * 2**stage coordinates, even half blocks before odd ones."""
    if stage == 0:
        return torch.arange(width)
    halves = torch.arange(width).reshape(-1, 2 ** (stage + 1), block // 2)
    return torch.cat([halves[:, 0::2], halves[:, 1::2]], dim=1).reshape(-1)


def initial(site, W, b):
    factors, size = site.factors, site.b
    return {
        "Q": torch.zeros(factors, W.shape[1] // size, size, size),
        "s": torch.ones(W.shape[0]),
    }


POSITIONS = ("attn.q", "attn.v")
