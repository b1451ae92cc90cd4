"""UniPELT: Mao et al. 2022, section 3: LoRA, prefix and adapter, each behind its gate."""

import torch
from torch.distributions import Normal, Uniform


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


def initial(site, W, b):
    small, bound = Normal(0.0, 0.02), site.d_x**-0.5
    found = {"G": small.expand([site.d_x])}
    if site.role == "attn.core":
        shape = [site.l, site.kv_heads, site.d_head]
        return found | {"P_k": small.expand(shape), "P_v": small.expand(shape)}
    if site.role == "ffn":
        r = site.bottleneck
        return found | {"D": small.expand([r, site.d_h]), "U": torch.zeros(site.d_h, r)}
    low = Uniform(-bound, bound).expand([site.r, site.d_x])
    return found | {"A": low, "B": torch.zeros(site.d_h, site.r)}


POSITIONS = ("attn.q", "attn.v", "attn.core", "ffn")
