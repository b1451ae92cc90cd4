"""Training can begin: as its tensors start, something that each spec trains has a gradient.

A product of two factors that both start at zero would pass every test of outputs and of random
tensors, and would never leave the base.
"""

from pathlib import Path

import pytest

from peftlang.verifying import Subject
from peftlang.verifying.comparing import as_spec, differentiated
from peftlang.verifying.one_site import one_site
from peftlang.verifying.site_case import SiteCase, place
from tests.mutation.judge import Case
from tests.mutation.test_mutants import WITH_REFERENCE, judge_of
from tests.oracles.plain import file_of

PLACED = [path for path in WITH_REFERENCE if "reference" in file_of(path.stem)]
"""Specs that place methods; the others train the base's own parameters alone."""


def _learning(subject: Subject, case: SiteCase) -> bool | None:
    """Whether a trained tensor of the use has a gradient at the start; None where none trains."""
    site = one_site(place(subject, case), initial=True)
    if not site.trained:
        return None
    found = differentiated(site, as_spec(site))
    return any(bool(found.gradients[name].any()) for name in site.trained)


@pytest.mark.parametrize("path", PLACED, ids=lambda path: path.stem)
def test_something_has_a_gradient_at_the_start(path: Path) -> None:
    judge = judge_of(path)
    assert isinstance(judge, Case)
    subject = Subject(path.read_text("utf-8"))
    learning: dict[str, bool] = {}
    for case in judge.cases:
        found = _learning(subject, case)
        if found is not None:
            learning[case.use] = learning.get(case.use, False) or found
    assert learning
    assert all(learning.values())
