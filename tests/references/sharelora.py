"""ShareLoRA: at one site it is LoRA."""

from typing import Any


def reference(site: Any, params: Any, x: Any, h: Any, W: Any, b: Any) -> Any:
    return h + site.args["alpha"] / site.args["r"] * (x @ params["A"].T @ params["B"].T)


SHARED = {"A": "layers"}
POSITIONS = ("attn.q", "attn.v")
