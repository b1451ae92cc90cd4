"""UniPELT: Mao et al. 2022, section 3: LoRA, prefix and adapter, each behind its gate."""

import torch


def _gate(params, x):
    return torch.sigmoid((x * params.G).sum(-1, keepdim=True))


def reference(site, params, x, h, k=None, v=None):
    if site.role == "attn.core":
        rows = len(k)
        gate = _gate(params, x.mean(1))[..., None, None]
        keys = params.P_k.expand(rows, -1, -1, -1)
        values = gate * params.P_v.expand(rows, -1, -1, -1)
        return {"k": torch.cat([keys, k], dim=1), "v": torch.cat([values, v], dim=1)}
    if site.role == "ffn":
        return h + _gate(params, x) * (torch.relu(h @ params.D.T) @ params.U.T)
    return h + site.alpha / site.r * _gate(params, x) * (x @ (params.B @ params.A).T)


POSITIONS = ("attn.q", "attn.v", "attn.core", "ffn")
