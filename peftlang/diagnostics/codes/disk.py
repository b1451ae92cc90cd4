"""D6xx: saving and loading."""

from peftlang.diagnostics.codes.entry import Code

DISK: tuple[Code, ...] = (
    Code(
        "D601",
        "a file or folder that cannot be read",
        "It does not exist, is not a file of this kind, or may not be read.",
        example="`peftlang check missing.peft`.",
        runs=False,
    ),
    Code(
        "D602",
        "a saved adapter that is damaged",
        "A file of the folder is missing, cut short, or not what it says it is.",
        example="A folder whose `adapter.safetensors` has half its bytes.",
        runs=False,
    ),
    Code(
        "D603",
        "a saved adapter for another base",
        "The base's architecture differs from the one that the adapter was made on; the "
        "message says how.",
        example="An adapter of a 12-layer model loaded onto a 6-layer one.",
        runs=False,
    ),
    Code(
        "D604",
        "a save that failed",
        "The disk is full or the folder may not be written. What was there before is untouched.",
        example='`peftlang.save(model, "out")` on a full disk.',
        runs=False,
    ),
    Code(
        "D605",
        "a folder of a newer version",
        "The folder was written by a later version of the language.",
        example="`adapter.json` with a `language` greater than this version's.",
        runs=False,
    ),
    Code(
        "D606",
        "a base without a name",
        "The saved adapter does not say which model it was made on: the model was built from a "
        "configuration and never saved or loaded.",
        example="`peftlang merge out -o plain` where the base was made from a configuration.",
        runs=False,
    ),
)
