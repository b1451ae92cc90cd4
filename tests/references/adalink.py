"""AdaLink: Wang et al. 2023, the change as one matrix."""


def reference(site, params, h):
    return h + h @ (params.W_u @ params.W_d).T


POSITIONS = ("embed",)
