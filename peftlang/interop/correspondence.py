"""What a correspondence between a method of HF PEFT and one of ours consists of, as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftlang.interop.common import Common
from peftlang.interop.layouts import SAME, Layout
from peftlang.ir.expr import Scalar

Value = str | Callable[[Mapping[str, Scalar], Mapping[str, int]], Scalar | None]
"""What an option is: our hyper-parameter of that name, or computed from those and the sizes."""


@dataclass(frozen=True)
class Stored:
    """Where one of our tensors lies: a key below the module's path, and its layout there."""

    key: str
    layout: Layout = SAME


@dataclass(frozen=True)
class Form:
    """One computation, as both libraries say it.

    Attributes:
        spec: A method of the library by name, or the text of one.
        tensors: Our trained tensors, and where they lie.
        when: Options that must have these values, and are written with them.
        hypers: Option -> our hyper-parameter, or a function of those and the module's sizes.
        otherwise: The same, where modules differ in what ``hypers`` gives.
        place: ``module``, ``embedding``, ``prompt`` or ``core``.
        common: Our buffers that one tensor of the file holds for all modules; each module reads
            the leading corner of it.
        derived: Our buffers that are computed from hyper-parameters and sizes, and not stored.
        also: Other texts of the same computation, for recognising it.
        before: A method that computes the same at ``ffn.act``, before this projection.
        listed: The option that lists the modules that have this form rather than another.
        fits: Says why the other library would choose other shapes; "" where it would not.
        unused: Options that have no effect in this form.
    """

    spec: str
    tensors: Mapping[str, Stored]
    when: Mapping[str, Any] = field(default_factory=dict)
    hypers: Mapping[str, Value] = field(default_factory=dict)
    otherwise: Mapping[str, Value] = field(default_factory=dict)
    place: str = "module"
    common: Mapping[str, Common] = field(default_factory=dict)
    derived: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    also: Sequence[str] = ()
    before: str | None = None
    listed: str | None = None
    fits: Callable[[Mapping[str, Scalar], Mapping[str, int]], str] = lambda _hypers, _sizes: ""
    unused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Correspondence:
    """One ``peft_type``.

    Attributes:
        forms: In the order in which they are tried.
        neutral: Options that change what is computed, each with the values at which they do not;
            any other value is refused.
        without_effect: Options that matter only before the tensors are stored.
        written: Options that are always written, with their values.
        patterns: Option -> the option that overrides it for some modules.
        relative: Keys of these overrides are matched below the first part of a path.
        transposed: Whether GPT-2's transposed linear layers may be targeted.
        copies: Key below which a module's own parameters are stored whole, as new values.
        draw: Makes the common tensors that the file does not hold, and the parts of them that no
            module reads.
        single: The other library computes in float32, whatever the model's number type.
        whole_model: For a method that changes the model's input: the `task_type` under which the
            two libraries agree, one of which has to be named.
        root: What stands before the paths of the base's own modules in the file.
        bias: What stands before ``_only`` in the option `bias`; "" where there is none.
    """

    forms: Sequence[Form]
    neutral: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    written: Mapping[str, Any] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)
    relative: bool = False
    transposed: bool = True
    copies: str | None = None
    draw: Callable[..., Any] | None = None
    single: bool = False
    whole_model: Sequence[str] = ()
    root: str = "base_model.model."
    bias: str = ""


OFF = (None, False, 0, "", "none")
"""Values at which an option is switched off; empty lists and dictionaries count as well."""

ANYWHERE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "target_modules",
        "task_type",
        "bias",
    }
)
"""Options that every method has and that reading understands, or that say nothing of it."""
