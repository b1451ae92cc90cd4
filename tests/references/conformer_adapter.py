"""Conformer adapter: Cappellazzo et al. 2024, section 3.2, with torch's own layers, row by row."""

import torch
from torch import nn
from torch.distributions import Uniform
from torch.nn import functional


def reference(site, params, x, h):
    z = functional.layer_norm(x, x.shape[-1:])
    both = torch.cat([params.W_a, params.W_g]), torch.cat([params.b_a, params.b_g])
    gated = functional.glu(z @ both[0].T + both[1], dim=-1)
    size = params.K.shape[1]
    before = size - 1 if site.causal else (size - 1) // 2
    padded = nn.ConstantPad1d((before, size - 1 - before), 0.0)(gated.mT)
    mixed = functional.conv1d(padded, params.K[:, None], groups=len(params.K)).mT
    if site.causal:
        seen = [mixed[:, : t + 1] for t in range(mixed.shape[1])]
        mean = torch.stack([s.mean(1) for s in seen], 1)
        spread = torch.stack([s.var(1, unbiased=False) for s in seen], 1)
    else:
        mean, spread = mixed.mean(1, keepdim=True), mixed.var(1, unbiased=False, keepdim=True)
    normed = (mixed - mean) / torch.sqrt(spread + 1e-5)
    out = functional.silu(params.g * normed + params.c)
    return h + out @ params.W_u.T + params.b_u


def initial(site, W, b):
    r, wide, narrow = site.r, site.d_x**-0.5, site.n**-0.5
    return {
        "W_a": Uniform(-wide, wide).expand([r, site.d_x]),
        "W_g": Uniform(-wide, wide).expand([r, site.d_x]),
        "K": Uniform(-narrow, narrow).expand([r, site.n]),
        "g": torch.ones(r),
        **{name: torch.zeros(r) for name in ("b_a", "b_g", "c")},
        "W_u": torch.zeros(site.d_h, r),
        "b_u": torch.zeros(site.d_h),
    }


POSITIONS = ("ffn",)
