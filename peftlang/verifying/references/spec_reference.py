"""Another spec as a reference: the same tensors, by name or by a given correspondence."""

from collections.abc import Mapping
from dataclasses import replace

from peftlang.diagnostics import PeftError
from peftlang.ir.method import Method, Use, fixed
from peftlang.verifying.method_at_site import Values
from peftlang.verifying.one_site import OneSite, Outcome
from peftlang.verifying.search import UnfitSite
from peftlang.verifying.site_case import PlacedMethod, given_to, reads_bias
from peftlang.verifying.subject import Subject, roles_of


class SpecReference:
    """A spec that another is held to; hyper-parameters of the same name have the same values.

    Args:
        subject: The spec.
        tensors: For its tensor names, the names of the first spec's tensors.
    """

    training = False

    def __init__(self, subject: Subject, tensors: Mapping[str, str] | None = None) -> None:
        self.subject, self.name = subject, str(subject.spec)
        self._tensors = dict(tensors or {})
        self._names = {h.name for h in subject.loaded.main(subject.entry).hypers}

    def __call__(self, site: OneSite, params: Values, values: Values) -> Outcome:
        """See `Reference`."""
        args = {k: v for k, v in site.placed.use.args.items() if k in self._names}
        uses = self.subject.build({**args, **self.subject.args}).uses
        use = next((u for u in uses if site.placed.case.role in roles_of(u)), None)
        if use is None:
            raise PeftError(
                f"`{self.name}` does nothing at {site.placed.case.role}",
                code="V811",
                help="compare at a position that both have: `--at attn.q`",
            )
        return run_as(use, site, params, values, self._tensors)


def run_as(
    use: Use, site: OneSite, params: Values, values: Values, tensors: Mapping[str, str]
) -> Outcome:
    """What a site computes with another method, given the first one's tensors.

    Raises:
        PeftError: V811, the methods' tensors, or what they are given, do not correspond.
        UnfitSite: the method wants a bias, and the site has none.
    """
    method = fixed(use.method, use.args)
    if reads_bias(method) and not site.placed.case.bias:
        raise UnfitSite("the site has no bias")
    _check_given(method, site)
    there = PlacedMethod(site.placed.case, site.placed.adapter, use, method)
    own = _matched(method, there, params, tensors)
    other = replace(site, placed=there, tensors=own)
    return other.run(leaves={name: values[name] for name in site.leaves})


def _check_given(method: Method, site: OneSite) -> None:
    for name in given_to(method):
        if name not in site.inputs:
            raise PeftError(
                f"`{method.name}` reads `{name}`, and the spec has nothing of that name",
                code="V811",
                help="compare methods with the same inputs, taps and carried states",
            )


def _matched(
    method: Method, there: PlacedMethod, params: Values, tensors: Mapping[str, str]
) -> Values:
    found = {}
    for definition in method.tensors:
        name = tensors.get(definition.name, definition.name)
        if name not in params:
            raise PeftError(
                f"`{method.name}` has a tensor `{definition.name}`, and the spec has none of that "
                "name",
                code="V811",
                help=f"say which it is: `{definition.name} = …`, one of "
                + ", ".join(f"`{n}`" for n in params),
            )
        wanted = there.shape(definition.dims)
        if tuple(params[name].shape) != wanted:
            raise PeftError(
                f"`{definition.name}` of `{method.name}` is {list(wanted)}, and `{name}` is "
                f"{list(params[name].shape)}",
                code="V811",
                help="compare methods whose tensors have the same shapes",
            )
        found[definition.name] = params[name]
    return found
