"""UniAdapter: Lu et al. 2024, its cross-modal layers, with what they share with another encoder."""

import torch
from torch.distributions import Uniform


def _norm(value, gain, shift):
    centred = value - value.mean(-1, keepdim=True)
    return gain * centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) + shift


def reference(site, params, h, resid, q=None):
    def bottleneck(stream):
        return torch.relu(_norm(stream, params.g, params.c) @ params.D.T)

    if q is None:
        return h + site.s * bottleneck(resid) @ params.U.T
    z = bottleneck(resid)
    both = _norm(z @ (params.U_m + params.U).T, params.g_m, params.c_m)
    return h + site.s * (bottleneck(q) @ params.U.T + both)


def initial(site, W, b):
    d, r = site.d_h, site.r
    starts = {
        "g": torch.ones(d),
        "c": torch.zeros(d),
        "D": Uniform(-(d**-0.5), d**-0.5).expand([r, d]),
        "U": torch.zeros(d, r),
    }
    if site.use == "uniadapter":
        return starts
    up = Uniform(-(r**-0.5), r**-0.5).expand([d, r])
    return {**starts, "U_m": up, "g_m": torch.ones(d), "c_m": torch.zeros(d)}


POSITIONS = ("ffn in encoder", "ffn in decoder")
SHARED = dict.fromkeys(("D", "g", "c"), "stacks")
TIED = dict.fromkeys(("D", "g", "c"), ("uniadapter", "cross"))
