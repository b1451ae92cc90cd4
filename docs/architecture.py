"""The picture and the table of docs/architecture.md, drawn from the imports that there are."""

import ast
from collections.abc import Mapping
from pathlib import Path

from docs.imports import ITSELF, ROOT, arrows, folder_of, sources
from docs.layers import LAYERS

_HIDDEN = {"__main__"}


def picture() -> str:
    """The folders and what they import, as a diagram in Mermaid.

    An arrow that follows from others is left out: what `cli` imports through `pipeline` it may
    import itself.
    """
    lines = ["```mermaid", "flowchart BT"]
    for number, layer in enumerate(LAYERS):
        lines.append(f'    subgraph layer{number}["{layer.title}"]')
        lines += [
            f"        {name}_[{label(name)}]" for name in layer.folders if name not in _HIDDEN
        ]
        lines.append("    end")
    for folder, targets in reduced(_between_folders()).items():
        lines += [f"    {folder}_ --> {target}_" for target in targets]
    return "\n".join([*lines, "```"])


def folders_table() -> str:
    """Each folder: what it holds, and what it imports from elsewhere."""
    found, lines = arrows(), ["| | holds | of other packages |", "|---|---|---|"]
    for layer in LAYERS:
        lines.append(f"| **{layer.title}** | | |")
        for name in layer.folders:
            if name not in _HIDDEN:
                outside = ", ".join(f"`{p}`" for p in sorted(found[name] - set(found)))
                lines.append(f"| `{label(name)}` | {_first_sentence(name)} | {outside} |")
    return "\n".join(lines)


def reduced(graph: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    """The arrows of a graph without circles that do not follow from others of it."""
    behind: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in behind:
            behind[name] = set().union(*({t} | reached(t) for t in graph[name]))
        return behind[name]

    return {
        name: sorted(t for t in targets if not any(t in reached(o) for o in targets - {t}))
        for name, targets in graph.items()
    }


def label(folder: str) -> str:
    """Where a folder, or single file, stands in the repository."""
    path = _file(folder)
    below = path.parent if path.name == "__init__.py" and folder != ITSELF else path
    return below.relative_to(ROOT).as_posix() + ("" if below.suffix else "/")


def _between_folders() -> dict[str, frozenset[str]]:
    found = arrows()
    shown = set(found) - _HIDDEN
    return {name: targets & shown for name, targets in found.items() if name in shown}


def _file(folder: str) -> Path:
    own = [path for path in sources() if folder_of(path) == folder]
    return next((path for path in own if path.name == "__init__.py"), own[0])


def _first_sentence(folder: str) -> str:
    text = ast.get_docstring(ast.parse(_file(folder).read_text("utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())
