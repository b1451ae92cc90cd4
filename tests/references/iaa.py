"""IAA's aside chain at one layer: Ma et al. 2022; `s` is what the layer below left."""


def reference(site, params, h, s):
    state = s + site.act((h + s) @ params.D.T) @ params.U.T
    return h + params.g * state


POSITIONS = ("block",)
