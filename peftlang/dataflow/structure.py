"""Where a module path stands in the model: which list of layers, which layer, which side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from peftlang.capture import ModelNames


@dataclass(frozen=True)
class Sublayer:
    """One residual branch: the modules' common path, its role, the weight that ends it."""

    path: str
    role: str | None
    anchor: str


@dataclass
class Structure:
    """The lists of layers of a model, told from other lists by the branches in their items."""

    names: ModelNames
    sublayers: list[Sublayer]
    sides: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stacks = self._find_stacks()

    def _find_stacks(self) -> list[str]:
        """Lists with branches inside their items and at most one self-attention in each."""
        counts: dict[str, dict[str, int]] = {}
        for sublayer in dict.fromkeys(self.sublayers):
            for stack, item in self._lists_above(sublayer.path):
                items = counts.setdefault(stack, {})
                items[item] = items.get(item, 0) + (sublayer.role == "attn")
        fit = [stack for stack, items in counts.items() if max(items.values()) <= 1]
        return [s for s in fit if not any(o != s and is_inside(s, o) for o in fit)]

    def _lists_above(self, path: str) -> Iterable[tuple[str, str]]:
        """(list, item) for every list of modules on the way from the root to `path`."""
        parts = path.split(".")
        for length in range(len(parts)):
            stack = ".".join(parts[:length])
            if stack in self.names.lists and parts[length].isdigit():
                yield stack, parts[length]

    def place(self, path: str) -> tuple[str | None, int | None]:
        """(stack, layer) of a module."""
        for stack, item in self._lists_above(path):
            if stack in self._stacks:
                return stack, int(item)
        return None, None

    def layers(self, stack: str | None) -> int | None:
        return None if stack is None else self.names.lists.get(stack)

    def side(self, path: str) -> str | None:
        """The side that a module belongs to: its stack's, or that of the tower around it."""
        stack, _ = self.place(path)
        if stack in self.sides:
            return self.sides[stack]
        if len(set(self.sides.values())) == 1:
            return next(iter(self.sides.values()))
        towers = tower_paths(list(self.sides))
        around = [s for s, tower in towers.items() if is_inside(path, tower)]
        return self.sides[around[0]] if len(around) == 1 else None


def tower_paths(stacks: list[str]) -> dict[str, str]:
    """For each stack the shortest path that leads to it and to none of the others."""
    split = [stack.split(".") for stack in stacks]
    shared = len(_common(split))
    return {stack: ".".join(stack.split(".")[: shared + 1]) for stack in stacks}


def tower_names(stacks: list[str]) -> dict[str, str]:
    """The last part of each stack's tower path."""
    return {stack: path.rpartition(".")[2] for stack, path in tower_paths(stacks).items()}


def item_path(stack: str, index: int | None) -> str:
    """Path of an item of a list of modules, which may be the root."""
    return f"{stack}.{index}" if stack else str(index)


def is_inside(path: str, module: str) -> bool:
    """Whether a path leads to a module or to one in it."""
    return path == module or not module or path.startswith(module + ".")


def common_path(paths: Iterable[str]) -> str:
    """The path of the innermost module that holds all of these."""
    return ".".join(_common([path.split(".") for path in paths]))


def _common(split: Sequence[Sequence[str]]) -> list[str]:
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*split, strict=False))
    return [column[0] for column in columns]
