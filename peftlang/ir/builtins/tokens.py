"""Predicates on tokens: which of them a change is for."""

from typing import Any

from peftlang.ir.builtins.table import Builtin, Evaluation, Signature
from peftlang.ir.expr import Number
from peftlang.ir.types import Level, Type, TypeFact

KINDS_OF_ID = ("bos", "cls", "decoder_start", "eos", "mask", "sep", "special", "unk")
"""Texts that stand for ids: ``cls`` is the model's ``cls_token_id``, ``special`` all it names."""


def _one_number(_call: Signature) -> Type:
    return Type((), Level.TOKEN)


def _check_ids(call: Signature, start: int) -> None:
    for place in range(start, len(call.args)):
        arg, have = call.args[place], call.types[place]
        if isinstance(arg, Number) and isinstance(arg.value, str):
            if arg.value not in KINDS_OF_ID:
                known = "there are " + ", ".join(f'"{kind}"' for kind in KINDS_OF_ID)
                raise TypeFact("T211", f'"{arg.value}" names no kind of token', place, help=known)
            continue
        if have.dims or have.level is not Level.CONST or have.kind != "int":
            raise TypeFact(
                "T211",
                f"a token's id is a whole number, and this is {have}",
                place,
                help='write a number, an `int` hyper-parameter, or a text such as "cls"',
            )


def _is_rule(call: Signature) -> Type:
    _check_ids(call, 0)
    return Type((), Level.TOKEN)


def _occurrence_rule(call: Signature) -> Type:
    count = call.dim(0)
    _check_ids(call, 1)
    return Type((count,), Level.TOKEN)


def _soft_rule(call: Signature) -> Type:
    return Type((call.dim(0),), Level.TOKEN)


def _occurrence(call: Evaluation) -> Any:
    """Row k is 1 at the k-th of these tokens; the running count says which one a token is."""
    found = call.site.sequence.identified(call.args[1:])
    nth = found.cumsum(1).unsqueeze(-1) - 1
    # 0, 1, …, n - 1 by a running sum of ones, so that its device is the sequence's.
    row = call.t.ones_like(nth.expand(-1, -1, call.args[0])).cumsum(-1) - 1
    return call.site.sequence.as_number((nth == row) & found.unsqueeze(-1))


TOKENS = (
    Builtin("tokens", "tokens(first = n, last = m)", "1 for the first n and the last m tokens of "
            "the prompt, 0 for the others; padding and generated tokens do not count.", (0, 0),
            _one_number, lambda c: c.site.sequence.token_mask(c.keywords),
            keywords=("first", "last"), asks="places", sign="not negative"),
    Builtin("token_is", "token_is(i, ...)", "1 for tokens whose id is one of these, 0 for the "
            "others and for padding. An id is a whole number, or a text: \"cls\" is the "
            "`cls_token_id` of the model's configuration, \"special\" every such id it has but "
            "padding's.", (1, 16), _is_rule,
            lambda c: c.site.sequence.as_number(c.site.sequence.identified(c.args)), asks="ids",
            texts=True, sign="not negative"),
    Builtin("occurrence", "occurrence(n, i, ...)", "`[n]`: entry k is 1 where the token is the "
            "k-th of its sequence with one of these ids (as for `token_is`), else 0.", (2, 16),
            _occurrence_rule, _occurrence, asks="ids", reads="seen", texts=True,
            sign="not negative"),
    Builtin("soft", "soft(n)", "`[n]`: entry k is 1 at the k-th soft token, which a method at "
            "`prompt` put before the sequence; 0 at tokens of the caller's.", (1, 1), _soft_rule,
            lambda c: c.site.sequence.soft(c.args[0]), asks="places", sign="not negative"),
)  # fmt: skip
