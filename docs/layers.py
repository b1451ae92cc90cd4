"""The layers of the package: its folders from the top down, and what each of them may import.

A folder imports those that stand above it, and of these the ones named here, with the packages from
elsewhere that are named here. The tests hold every import in the tree against this table.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """Folders that do one kind of work.

    Attributes:
        title: What they do.
        folders: By folder, all that it imports.
    """

    title: str
    folders: dict[str, str]


LAYERS = (
    Layer(
        "Read a spec, without torch",
        {
            "keeping": "",
            "grammar": "",
            "specs": "",
            "diagnostics": "rich",
            "syntax": "lark grammar diagnostics",
            "ir": "pydantic pydantic_core diagnostics",
            "lower": "specs diagnostics syntax ir",
        },
    ),
    Layer(
        "Read a model",
        {
            "models": "torch transformers diagnostics",
            "capture": "torch keeping diagnostics",
            "dataflow": "torch diagnostics ir capture",
            "sites": "torch networkx keeping diagnostics ir capture dataflow",
        },
    ),
    Layer(
        "Write a method into it",
        {
            "emit": "torch diagnostics ir capture dataflow sites",
            "regions": "torch diagnostics ir capture dataflow sites emit",
            "prompts": "torch diagnostics ir capture dataflow sites emit regions",
            "passes": "torch diagnostics ir capture dataflow sites emit regions prompts",
        },
    ),
    Layer(
        "Run it",
        {
            "runtime": "torch safetensors diagnostics ir capture dataflow sites emit regions"
            " prompts",
            "pipeline": "torch diagnostics ir lower models capture sites emit prompts passes"
            " runtime",
        },
    ),
    Layer(
        "Work with it",
        {
            "saving": "torch diagnostics lower runtime pipeline",
            "requantising": "torch diagnostics capture",
            "merging": "torch diagnostics capture sites passes runtime requantising pipeline",
            "interop": "torch safetensors diagnostics syntax ir lower capture sites runtime"
            " pipeline merging",
            "verifying": "torch hypothesis peft diagnostics ir lower models emit runtime pipeline"
            " saving merging interop",
        },
    ),
    Layer(
        "Speak with people",
        {
            "peftlang": "diagnostics runtime pipeline saving merging interop verifying",
            "cli": "typer rich torch safetensors keeping diagnostics syntax ir lower models"
            " pipeline saving merging interop verifying peftlang",
            "__main__": "cli",
        },
    ),
)

ALLOWED: dict[str, frozenset[str]] = {
    folder: frozenset(names.split()) for layer in LAYERS for folder, names in layer.folders.items()
}
"""What each folder may import, in order."""
