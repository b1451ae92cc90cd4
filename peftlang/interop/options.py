"""The options of ``adapter_config.json``: understood, without effect, or refused; never ignored."""

import re
from collections.abc import Mapping
from typing import Any

from peftlang.diagnostics import PeftError, did_you_mean
from peftlang.interop.correspondence import ANYWHERE, OFF, Correspondence, Form
from peftlang.interop.table import REFUSED, TABLE


def check_options(config: Mapping[str, Any]) -> Correspondence:
    """The correspondence of a configuration whose every option is understood.

    Raises:
        PeftError: I903, a `peft_type` without correspondence; I904, an option that cannot be
            expressed.
    """
    kind = config["peft_type"]
    if kind not in TABLE:
        why = REFUSED.get(kind)
        raise PeftError(
            f"`{kind}` cannot be converted" + (f": {why}" if why else ""),
            code="I903",
            help=did_you_mean(kind, TABLE) or "what can: " + ", ".join(sorted(TABLE)),
        )
    correspondence = TABLE[kind]
    _check_kinds(config, correspondence)
    for option, value in config.items():
        _check(option, value, kind, correspondence)
    return correspondence


def _check_kinds(config: Mapping[str, Any], correspondence: Correspondence) -> None:
    """Values of another kind than the other library writes, and patterns that are none."""
    wanted: dict[str, Any] = {
        "target_modules": (str, list),
        "exclude_modules": (str, list),
        "modules_to_save": list,
        "layers_to_transform": (int, list),
        "layers_pattern": (str, list),
    }
    wanted |= dict.fromkeys(correspondence.patterns.values(), dict)
    wanted |= dict.fromkeys(correspondence.patterns, (int, float))
    for option, kinds in wanted.items():
        value = config.get(option)
        if value is not None and not isinstance(value, kinds):
            raise _unreadable(option, value, "is of another kind than PEFT writes")
        keyed = value or {} if option in PATTERNS else {}
        for text in [value] if isinstance(value, str) else keyed:
            try:
                re.compile(str(text))
            except re.error as why:
                raise _unreadable(option, value, f"is no regular expression: {why}") from None


PATTERNS = frozenset({"rank_pattern", "alpha_pattern", "n_frequency_pattern", "block_size_pattern"})


def _unreadable(option: str, value: Any, why: str) -> PeftError:
    return PeftError(
        f"the option `{option}` = {_shown(value)} {why}",
        code="I902",
        help="mend adapter_config.json, or save the adapter again",
    )


def _check(option: str, value: Any, kind: str, correspondence: Correspondence) -> None:
    neutral = correspondence.neutral.get(option)
    expressed = any(option in form.hypers for form in correspondence.forms)
    if is_off(value) or expressed or (neutral is None and option in known_options(correspondence)):
        return
    if neutral is not None and value in neutral:
        return
    allowed = [v for v in neutral or () if not is_off(v)]
    what = (
        "changes what is computed, and has no" if neutral is not None else "is unknown: it has no"
    )
    raise PeftError(
        f"the option `{option}` of {kind}, here {_shown(value)}, {what} correspondence",
        code="I904",
        help="merge the adapter with PEFT and use the plain model"
        + (f", or train it with {option} = {_shown(allowed[0])}" if allowed else ""),
    )


def known_options(correspondence: Correspondence) -> set[str]:
    """Options that reading understands, or that have no effect on a stored adapter."""
    found = set(ANYWHERE) | correspondence.without_effect | set(correspondence.written)
    found |= set(correspondence.patterns.values())
    for form in correspondence.forms:
        found |= set(form.hypers) | set(form.when) | form.unused
        found |= {form.listed} if form.listed else set()
    return found


def has_form(config: Mapping[str, Any], form: Form) -> bool:
    """Whether a configuration's options are those of a form."""
    return all(_same(config.get(option), value) for option, value in form.when.items())


def check_consumed(config: Mapping[str, Any], form: Form, correspondence: Correspondence) -> None:
    """An option that some forms of a method have and this one has not must be off.

    Raises:
        PeftError: I904.
    """
    for other in correspondence.forms:
        for option in set(other.hypers) - set(form.hypers) - form.unused:
            if option in correspondence.neutral and not is_off(config.get(option)):
                raise PeftError(
                    f"the option `{option}` = {_shown(config[option])} has no correspondence "
                    f"beside {', '.join(f'`{k}` = {_shown(v)}' for k, v in form.when.items())}",
                    code="I904",
                    help=f"where the adapter is trained no further, `{option}` can be set to 0 in "
                    "adapter_config.json",
                )


def is_off(value: Any) -> bool:
    """Whether a value means that an option is not used."""
    return value in OFF if isinstance(value, (str, int, float, type(None))) else not value


def _same(value: Any, wanted: Any) -> bool:
    return value == wanted or (is_off(value) and is_off(wanted))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
