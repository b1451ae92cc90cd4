"""Prefix tuning through an MLP: Li and Liang 2021, section 4.3; Liu et al. 2022, section 3.2."""

import torch


def reference(site, params, k, v):
    hidden = torch.tanh(params.E @ params.W_1.T + params.b_1)
    found = {}
    for name, own in (("k", k), ("v", v)):
        prefix = hidden @ params[f"U_{name}"].T + params[f"b_{name}"]
        prefix = prefix.view(1, -1, *own.shape[2:]).expand(len(own), -1, -1, -1)
        found[name] = torch.cat([prefix, own], dim=1)
    return found


SHARED = dict.fromkeys(("E", "W_1", "b_1"), "layers")
POSITIONS = ("attn.core", "cross_attn.core")
