"""AdapterFusion: Pfeiffer et al. 2021, section 3.2: the layer asks, the adapters answer."""

import torch


def reference(site, params, h):
    outputs = [h + site.act(h @ d.T) @ u.T for d, u in zip(params.D, params.U, strict=True)]
    query = h @ params.Q.T
    scores = torch.stack([(query * (z @ params.K.T)).sum(-1) for z in outputs], dim=-1)
    weights = torch.softmax(scores, dim=-1)
    return sum(weights[..., n, None] * (z @ params.V.T) for n, z in enumerate(outputs))


POSITIONS = ("ffn",)
