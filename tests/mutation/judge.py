"""Whether a spec is what its reference says, at fixed sites: what `verify` decides, made quick.

The first difference is returned in words; None means that there is none. Nothing here knows a
method by name.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlang.diagnostics import PeftError
from peftlang.ir.dims import Indivisible
from peftlang.ir.expr import Scalar
from peftlang.ir.method import HyperParameter
from peftlang.ir.positions import POSITIONS
from peftlang.ir.reach import asks
from peftlang.verifying import Subject
from peftlang.verifying.checks.equals_reference import difference
from peftlang.verifying.checks.reference_facts import check_facts, check_uses
from peftlang.verifying.references.python_reference import PythonReference
from peftlang.verifying.search import UnfitSite, Violation
from peftlang.verifying.site_case import SiteCase, order_matters, place
from peftlang.verifying.subject import roles_of
from tests.mutation.training import trained_otherwise
from tests.oracles.plain import REFERENCES

INTEGERS = (4, 3, 5, 7, 10, 2)
"""Values of integer hyper-parameters: small, and as different from each other, and from the sizes
below, as divisions allow."""

_SIZES = {
    "heads": 12,
    "kv_heads": 6,
    "d_head": 8,
    "layers": 9,
    "layer": 6,
    "vocab": 13,
    "batch": 2,
    "tokens": 11,
    "keys": 11,
    "d_x": 16,
    "d_h": 24,
}
"""Sizes of a site; all that can differ do, so that no mistake of sizes goes unseen."""
_OTHER = {"prompt": {"d_x": 16, "d_h": 16}, "cross_attn.core": {"keys": 14}}


@dataclass(frozen=True)
class Case:
    """A spec with arguments, and the sites at which it and its mutants are judged."""

    path: Path
    reference: PythonReference
    args: Mapping[str, Scalar]
    cases: tuple[SiteCase, ...]

    def verdict(self, text: str) -> str | None:
        """Why a spec is not what the reference says; None where no difference is found."""
        subject = Subject(text)
        try:
            adapter = subject.build(self.args)
            labels = {use.label for use in adapter.uses}
            if labels != {one.use for one in self.cases}:
                return f"uses {', '.join(sorted(labels))}"
            check_uses(adapter, self.reference.defined)
            for one in self.cases:
                placed = place(subject, one)
                difference(placed, self.reference)
                check_facts(placed, self.reference)
            if self.reference.has("trained"):
                return trained_otherwise(adapter, self.reference.defined["trained"])
        except Violation as violation:
            return str(violation)
        except (PeftError, RuntimeError, IndexError, Indivisible, UnfitSite) as refused:
            return f"cannot be computed: {str(refused).splitlines()[0]}"
        return None


def case(path: Path) -> Case:
    """How a spec is judged: by `tests/references/NAME.py`."""
    subject = Subject(path.read_text("utf-8"))
    loaded = PythonReference(REFERENCES / f"{path.stem}.py")
    entry = subject.loaded.main()
    for args in _arguments(entry.hypers):
        try:
            cases = tuple(_cases(subject, args, training=loaded.training))
            for one in cases:
                at = place(subject, one)
                for tensor in at.method.tensors:
                    at.shape(tensor.dims)
                difference(at, loaded)
        except (PeftError, Indivisible):
            continue
        return Case(path, loaded, args, cases)
    raise AssertionError(f"no small arguments suit {path.name}")


def _arguments(hypers: tuple[HyperParameter, ...]) -> Iterator[dict[str, Scalar]]:
    """Small integers, that differ where they can; numbers that do, are no defaults, and not 1."""
    integers = [h.name for h in hypers if h.kind == "int"]
    fixed: dict[str, Scalar] = {}
    for hyper in hypers:
        if hyper.kind == "float":
            value = 0.25 + 0.5 * float(hyper.default or 0)
            while value in (hyper.default, *fixed.values()):
                value += 0.125
            fixed[hyper.name] = value
    choices = itertools.product(INTEGERS, repeat=len(integers))
    for values in sorted(choices, key=lambda v: len(v) - len(set(v))):
        yield {**fixed, **dict(zip(integers, values, strict=True))}


def _cases(subject: Subject, args: Mapping[str, Scalar], *, training: bool) -> Iterator[SiteCase]:
    """One site of each kind for each use; with dropout on as well, where the reference has it.

    Attention is causal; what else looks at other tokens does so with and without later ones. What
    asks which layer it is in is at the first one as well, and what asks for its place at each role.
    """
    for use in subject.build(args).uses:
        kinds: list[Any] = []
        for role in roles_of(use):
            if asks(use.method, "place") or not any(POSITIONS[role] is kind for kind in kinds):
                kinds.append(POSITIONS[role])
                causal = order_matters(use.method, role)
                both = causal and role != "attn.core"
                modes = itertools.product(
                    (causal, False)[: 1 + both],
                    (False, True)[: 1 + training],
                    ({}, {"layer": 0})[: 1 + asks(use.method, "layer")],
                )
                for way, on, where in modes:
                    yield SiteCase(
                        role=role,
                        use=use.label,
                        args=dict(args),
                        training=on,
                        sizes=_SIZES | _OTHER.get(role, {}) | where,
                        causal=way,
                    )
