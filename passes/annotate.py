"""annotate: find the sites in a graph that was recorded by itself.

Requires: an operation that `decompose` has written out. Ensures: the sites that lie within it are
located; a graph whose sites are known is as it was.
"""

from peftlang.diagnostics import PeftError
from peftlang.emit.rewriting import Rewriting
from peftlang.sites.locate import locate
from peftlang.sites.occurrence import Missing


def annotate(work: Rewriting) -> None:
    """Locate the sites that are looked for.

    Raises:
        PeftError: R502, a site runs in the graph and cannot be found there.
    """
    if work.captured is None:
        return
    found = locate(work.captured, work.sought)
    if found.missing:
        raise _not_found(found.missing[0])
    work.located.found.update(found.found)


def _not_found(lost: Missing) -> PeftError:
    return PeftError(
        f"the weights of {lost.site.id} run in an operation, but the site was not found there: "
        f"{lost.reason}",
        code="R502",
        help="call the module with the kind of arguments with which the model was adapted; or "
        "place the method on modules that are called",
    )
