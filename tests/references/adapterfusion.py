"""AdapterFusion: Pfeiffer et al. 2021, section 3.2: the layer asks, the adapters answer."""

import torch
from torch.distributions import Normal


def reference(site, params, h):
    outputs = [h + site.act(h @ d.T) @ u.T for d, u in zip(params.D, params.U, strict=True)]
    query = h @ params.Q.T
    scores = torch.stack([(query * (z @ params.K.T)).sum(-1) for z in outputs], dim=-1)
    weights = torch.softmax(scores, dim=-1)
    return sum(weights[..., n, None] * (z @ params.V.T) for n, z in enumerate(outputs))


def initial(site, W, b):
    d, small = site.d_h, Normal(0.0, 0.02)
    return {
        "D": small.expand([site.N, site.r, d]),
        "U": torch.zeros(site.N, d, site.r),
        "Q": small.expand([d, d]),
        "K": small.expand([d, d]),
        "V": torch.eye(d),
    }


POSITIONS = ("ffn",)
