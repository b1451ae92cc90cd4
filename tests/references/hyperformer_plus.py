"""HyperFormer++: Mahabadi et al. 2021, section 3, one row after the other."""

import torch
from torch.distributions import Normal
from torch.nn.functional import layer_norm


def reference(site, params, h, task):
    d, r = h.shape[-1], site.r
    rows = []
    for row, number in zip(h, task.tolist(), strict=True):
        code = torch.cat([params.z[number], params.e_l[site.layer], params.e_p[site.place]])
        hidden = torch.relu(params.M_1 @ code + params.c_1)
        made = params.M_2 @ hidden + params.c_2
        code = layer_norm(made, [site.k], params.g, params.c, eps=1e-6)
        down, up = (params.H_D @ code).view(r, d), (params.H_U @ code).view(d, r)
        inner = site.act(row @ down.T + params.H_d @ code)
        out = inner @ up.T + params.H_u @ code
        rows.append(row + layer_norm(out, [d], params.H_g @ code, params.H_c @ code))
    return torch.stack(rows)


def initial(site, W, b):
    t, m, k, d, r = site.t, site.m, site.k, site.d_h, site.r
    embeddings = {"z": site.tasks, "e_l": site.layers, "e_p": site.places}
    generators = {"H_D": r * d, "H_d": r, "H_U": d * r, "H_u": d, "H_g": d, "H_c": d}
    return {
        **{name: Normal(0.0, 1.0).expand([count, t]) for name, count in embeddings.items()},
        "M_1": Normal(0.0, 0.01).expand([m, 3 * t]),
        "c_1": torch.zeros(m),
        "M_2": Normal(0.0, 0.01).expand([k, m]),
        "c_2": torch.zeros(k),
        "g": torch.ones(k),
        "c": torch.zeros(k),
        **{name: Normal(0.0, 0.01).expand([rows, k]) for name, rows in generators.items()},
    }


POSITIONS = ("attn", "ffn")
SHARED = {
    "z": "model",
    **dict.fromkeys(("e_l", "e_p", "M_1", "c_1", "M_2", "c_2", "g", "c"), "stack"),
    **dict.fromkeys(("H_D", "H_d", "H_U", "H_u", "H_g", "H_c"), "stack"),
}
