"""The methods that the table's forms name, as typed methods."""

from functools import cache

from peftlang.interop.correspondence import Form
from peftlang.ir.method import Method, TensorDef
from peftlang.lower import load, open_method


def is_text(spec: str) -> bool:
    """Whether a form's spec is the text of a method, and not the name of one."""
    return "{" in spec


@cache
def method_of(spec: str) -> Method:
    """The method of a form, its hyper-parameters open."""
    return open_method(load(spec))


def definitions(form: Form) -> dict[str, TensorDef]:
    """The tensors of a form's method by name."""
    return {definition.name: definition for definition in method_of(form.spec).tensors}
