"""Named symbolic dimensions: polynomials with exact division."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

Monomial: TypeAlias = tuple[tuple["Atom", int], ...]


class Indivisible(ValueError):
    """A division of dimensions that leaves a remainder at some concrete sizes."""

    def __init__(self, numerator: "Dim", denominator: "Dim", top: int, bottom: int) -> None:
        self.numerator, self.denominator = numerator, denominator
        self.top, self.bottom = top, bottom
        super().__init__(f"{numerator} = {top} is not divisible by {denominator} = {bottom}")


class UnboundDim(KeyError):
    """A symbol that has no size in the environment."""


class TooComplex(ValueError):
    """A dimension past the bounds below, which keep every operation fast."""


MAX_TERMS, MAX_DEGREE, MAX_NESTED, MAX_COEFFICIENT = 64, 32, 4, 2**62


@dataclass(frozen=True, slots=True)
class Quotient:
    """A division that does not cancel symbolically; checked when sizes are known."""

    numerator: "Dim"
    denominator: "Dim"

    def __str__(self) -> str:
        return f"{_grouped(self.numerator)} / {_grouped(self.denominator)}"


Atom: TypeAlias = str | Quotient


@dataclass(frozen=True)
class Dim:
    """A polynomial with integer coefficients over symbols and quotients.

    Two dimensions are the same dimension when their polynomials are equal:
    ``2 * r`` is ``r + r``, and ``(d_x / b) * b`` is ``d_x``.
    """

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def of(value: "Dim | int | str") -> "Dim":
        """Return ``value`` as a dimension: an integer, a symbol's name, or a dimension."""
        if isinstance(value, Dim):
            return value
        if isinstance(value, int):
            return Dim((((), value),)) if value else Dim(())
        return Dim(((((value, 1),), 1),))

    @property
    def constant(self) -> int | None:
        """The integer that this dimension is, or None when it has symbols."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Every symbol that occurs, inside quotients as well."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom, _ in monomial:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    found |= atom.numerator.symbols | atom.denominator.symbols
        return frozenset(found)

    @cached_property
    def nested(self) -> int:
        """How deep quotients lie within quotients; 0 for a polynomial."""
        quotients = [a for m, _ in self.terms for a, _ in m if isinstance(a, Quotient)]
        below = (max(q.numerator.nested, q.denominator.nested) for q in quotients)
        return max((1 + depth for depth in below), default=0)

    def __add__(self, other: "Dim | int | str") -> "Dim":
        return _collect([*self.terms, *Dim.of(other).terms])

    def __neg__(self) -> "Dim":
        return Dim(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: "Dim | int | str") -> "Dim":
        return self + -Dim.of(other)

    def __mul__(self, other: "Dim | int | str") -> "Dim":
        result = Dim(())
        for left, a in self.terms:
            for right, b in Dim.of(other).terms:
                result = result + _product(left, right, a * b)
        return result

    def __truediv__(self, other: "Dim | int | str") -> "Dim":
        return _divide(self, Dim.of(other))

    def __pow__(self, exponent: int) -> "Dim":
        result = Dim.of(1)
        for _ in range(exponent):
            result = result * self
        return result

    __radd__ = __add__
    __rmul__ = __mul__

    def substitute(self, env: Mapping[str, "Dim | int"]) -> "Dim":
        """Replace symbols by other dimensions or sizes; unknown symbols stay."""
        total = Dim(())
        for monomial, coefficient in self.terms:
            term = Dim.of(coefficient)
            for atom, power in monomial:
                term = term * _substitute_atom(atom, env) ** power
            total = total + term
        return total

    def evaluate(self, env: Mapping[str, int]) -> int:
        """Return the size under ``env``.

        Raises:
            UnboundDim: a symbol is not in ``env``.
            Indivisible: a division leaves a remainder.
        """
        total = 0
        for monomial, coefficient in self.terms:
            value = coefficient
            for atom, power in monomial:
                value *= _evaluate_atom(atom, env) ** power
            total += value
        return total

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        ordered = sorted(self.terms, key=lambda t: (t[0] == (), t[1] < 0))
        text = ""
        for monomial, coefficient in ordered:
            sign = "-" if coefficient < 0 else "+"
            body = _term_text(monomial, abs(coefficient))
            text += f" {sign} {body}" if text else (f"-{body}" if sign == "-" else body)
        return text

    def __repr__(self) -> str:
        return f"Dim({self})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(
            cls, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def product(dims: Iterable[Dim]) -> Dim:
    """The product of ``dims``; 1 for none."""
    result = Dim.of(1)
    for dim in dims:
        result = result * dim
    return result


def _atom_key(atom: Atom) -> tuple[int, str]:
    return (0, atom) if isinstance(atom, str) else (1, str(atom))


def _collect(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    sums: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums.get(monomial, 0) + coefficient
    kept = [(m, c) for m, c in sums.items() if c]
    if len(kept) > MAX_TERMS or any(abs(c) > MAX_COEFFICIENT for _, c in kept):
        raise TooComplex("this dimension has too many terms, or too large numbers")
    kept.sort(key=lambda t: [(_atom_key(a), p) for a, p in t[0]])
    return Dim(tuple(kept))


def _product(left: Monomial, right: Monomial, coefficient: int) -> Dim:
    powers: dict[Atom, int] = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    if sum(powers.values()) > MAX_DEGREE:
        raise TooComplex("this dimension is a product of too many factors")
    for atom in powers:
        if isinstance(atom, Quotient):
            cancelled = _cancel(atom, powers, coefficient)
            if cancelled is not None:
                return cancelled
    ordered = tuple(sorted(powers.items(), key=lambda item: _atom_key(item[0])))
    return Dim(((ordered, coefficient),))


def _cancel(quotient: Quotient, powers: Mapping[Atom, int], coefficient: int) -> Dim | None:
    """(n / d) * d * rest is n * rest, when d is one monomial that divides the others."""
    if len(quotient.denominator.terms) != 1:
        return None
    others = dict(powers)
    others[quotient] -= 1
    rest = {a: p for a, p in others.items() if p}
    monomial = tuple(sorted(rest.items(), key=lambda item: _atom_key(item[0])))
    reduced = _divide_term(monomial, coefficient, *quotient.denominator.terms[0])
    return None if reduced is None else quotient.numerator * Dim((reduced,))


def _divide_term(
    monomial: Monomial, coefficient: int, by: Monomial, by_coefficient: int
) -> tuple[Monomial, int] | None:
    if coefficient % by_coefficient:
        return None
    powers = dict(monomial)
    for atom, power in by:
        left = powers.get(atom, 0) - power
        if left < 0:
            return None
        powers[atom] = left
    kept = tuple((a, p) for a, p in powers.items() if p)
    return kept, coefficient // by_coefficient


def _divide(top: Dim, bottom: Dim) -> Dim:
    if bottom.constant == 0:
        raise ZeroDivisionError(f"{top} / 0")
    if top == bottom:
        return Dim.of(1)
    if len(bottom.terms) == 1:
        parts = [_divide_term(m, c, *bottom.terms[0]) for m, c in top.terms]
        if all(part is not None for part in parts):
            return _collect([part for part in parts if part is not None])
    if len(top.terms) == 1 and len(top.terms[0][0]) == 1:
        atom, power = top.terms[0][0][0]
        if isinstance(atom, Quotient) and power == 1 and top.terms[0][1] == 1:
            return _divide(atom.numerator, atom.denominator * bottom)
    if max(top.nested, bottom.nested) >= MAX_NESTED:
        raise TooComplex("this dimension has too many divisions within divisions")
    return Dim(((((Quotient(top, bottom), 1),), 1),))


def _substitute_atom(atom: Atom, env: Mapping[str, "Dim | int"]) -> Dim:
    if isinstance(atom, str):
        return Dim.of(env[atom]) if atom in env else Dim.of(atom)
    return atom.numerator.substitute(env) / atom.denominator.substitute(env)


def _evaluate_atom(atom: Atom, env: Mapping[str, int]) -> int:
    if isinstance(atom, str):
        if atom not in env:
            raise UnboundDim(atom)
        return env[atom]
    top, bottom = atom.numerator.evaluate(env), atom.denominator.evaluate(env)
    if bottom == 0 or top % bottom:
        raise Indivisible(atom.numerator, atom.denominator, top, bottom)
    return top // bottom


def _grouped(dim: Dim) -> str:
    text = str(dim)
    return f"({text})" if " " in text else text


def _term_text(monomial: Monomial, coefficient: int) -> str:
    factors = [str(coefficient)] if coefficient != 1 or not monomial else []
    for atom, power in monomial:
        text = atom if isinstance(atom, str) else str(atom)
        if isinstance(atom, Quotient) and (len(monomial) > 1 or coefficient != 1 or power > 1):
            text = f"({text})"
        factors.append(text if power == 1 else f"{text} ** {power}")
    return " * ".join(factors)
