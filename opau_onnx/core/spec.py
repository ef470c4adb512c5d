"""THE definition of the orthogonal-Padé activation unit.

Everything else in this package is derived from the tables below or tested against an oracle.

For one element ``x`` with numerator coefficients ``c_0 .. c_k`` and denominator coefficients ``d``::

    y = P(x) / Q(x)          P(x) = sum_i c_i f_i(x)

where ``f_n`` is one of the bases in :data:`BASES` and ``Q`` one of the forms in
:data:`~opau_onnx.core.denominators.FORMS`.
Sources: Biswas et al., "Orthogonal-Padé Activation Functions", arXiv 2106.09693 (bases, safe OPAU);
Molina et al., "Padé Activation Units", arXiv 1907.06732 (safe PAU). Bases carry the names of
``numpy.polynomial`` and ``scipy.special``.

Range policy, kept by every implementation
    * A safe form gives the right, finite value for every finite ``x`` whose value the output's dtype can hold,
      however large ``x`` is. ``plain`` and ``free`` may have poles and ``clamped`` a jump; away from them the same holds
      (``clamped`` beyond X0: only where Q is not clamped).
    * NaN gives NaN. +inf and -inf give the limit in every form but ``clamped`` with a clamped Q: the quotient of the leading
      terms in use, a_p x**p / (b_q x**q), where a and b are c and the weights of d times the basis' leading factors (b_0 and
      the form's offset together where no other weight is in use). So it is 0 where p < q, a_p / b_q where p = q, and where
      p > q an infinity with the sign of that quotient, also where Q has a pole further in. A finite x whose value the dtype
      cannot hold gives an infinity of that value's sign.
    * The argument: P and Q may both be divided by ``s**M`` where ``s = max(1, abs(x) / X0)`` and M is the larger
      degree whose coefficient is not zero. Up to ``X0`` (:func:`ordinary_limit`) nothing is scaled at all; beyond
      it every term stays between underflow that cannot matter and overflow.
    * It holds for coefficients up to :data:`COEFFICIENT_LIMIT` in magnitude, and where the larger coefficient of degree M is at
      least :data:`COEFFICIENT_FLOOR` (2**-30 where M is not the larger of the two degrees). The others may be as small as they
      like, or zero. Below a certain size of it, P and Q are both multiplied by a common factor (:func:`common_factor`),
      without which s**-M would underflow before the quotient is out of range.

Sharing
    Coefficients of rank 1 are shared by the whole tensor. With ``groups`` G > 1 the channels along ``axis`` fall into
    G equal runs of neighbours, and either coefficient tensor may have shape (G, n): one row for each group. G equal to
    the number of channels gives one row for each channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

from opau_onnx.core.denominators import FORMS, Form
from opau_onnx.errors import SpecError

DOMAIN = "ai.opau"
"""ONNX operator domain."""
OPSET_VERSION = 1
"""Version of :data:`DOMAIN`."""
OP_TYPE = "OrthogonalPade"
"""The one operator: inputs X (T), numerator (TC), denominator (TC); output Y (T).

T is float16, bfloat16, float32 or float64. TC, in which everything is computed, is float64 when T is float64, else float32.
"""
FIXED_OP_TYPE = "FixedOrthogonalPade"
"""The same function with constant coefficients: input X (T), output Y (T). Attributes besides basis, form, degrees, groups and
axis: numerator, denominator (tensors of TC), and, both or neither, scale and shift (tensors of TC, shape (groups,)): then it is
the function of scale X + shift.
"""
OP_TYPES = (OP_TYPE, FIXED_OP_TYPE)
MAX_DEGREE = 16
COEFFICIENT_LIMIT = 2.0**24
COEFFICIENT_FLOOR = 2.0**-100


class Step(NamedTuple):
    """One step of a three-term recurrence: f_{n+1}(x) = (a x + b) f_n(x) - c f_{n-1}(x), with f_{-1} = 0, f_0 = 1."""

    a: Fraction
    b: Fraction
    c: Fraction


_F = Fraction
BASES: dict[str, Callable[[int], Step]] = {
    "power": lambda n: Step(_F(1), _F(0), _F(0)),
    "chebyshev": lambda n: Step(_F(2 if n else 1), _F(0), _F(1 if n else 0)),
    "chebyshev_u": lambda n: Step(_F(2), _F(0), _F(1 if n else 0)),
    "hermite_e": lambda n: Step(_F(1), _F(0), _F(n)),
    "hermite": lambda n: Step(_F(2), _F(0), _F(2 * n)),
    "laguerre": lambda n: Step(_F(-1, n + 1), _F(2 * n + 1, n + 1), _F(n, n + 1)),
    "legendre": lambda n: Step(_F(2 * n + 1, n + 1), _F(0), _F(n, n + 1)),
}
"""Basis name -> its recurrence step n -> n + 1."""


@dataclass(frozen=True)
class Config:
    """Which function a node computes, apart from its coefficients.

    Attributes:
        basis: a key of :data:`BASES`.
        form: a key of :data:`FORMS`.
        degrees: (k, l), each from 0 to :data:`MAX_DEGREE`.
        groups: number of groups of channels, 1 for coefficients shared by the whole tensor.
        axis: the channel axis, negative counts from the end; meaningful only where ``groups`` > 1.

    Raises:
        SpecError: for a value outside these.
    """

    basis: str = "hermite_e"
    form: str = "abs_terms"
    degrees: tuple[int, int] = (5, 4)
    groups: int = 1
    axis: int = 1

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise SpecError(f"unknown basis {self.basis!r}; expected one of {', '.join(BASES)}")
        if self.form not in FORMS:
            raise SpecError(f"unknown denominator form {self.form!r}; expected one of {', '.join(FORMS)}")
        object.__setattr__(self, "degrees", _checked_degrees(self.degrees))
        if not _is_int(self.groups) or self.groups < 1:
            raise SpecError(f"groups is {self.groups!r}; expected a whole number of at least 1")
        if not _is_int(self.axis):
            raise SpecError(f"axis is {self.axis!r}; expected a whole number")

    @property
    def denominator_form(self) -> Form:
        return FORMS[self.form]

    @property
    def numerator_size(self) -> int:
        """Number of numerator coefficients, k + 1."""
        return self.degrees[0] + 1

    @property
    def denominator_size(self) -> int:
        """Number of denominator coefficients: l, or l + 1 in the forms whose sum starts at j = 0."""
        return self.degrees[1] + 1 - self.denominator_form.first

    @property
    def top(self) -> int:
        """The larger degree, m: the basis is needed up to f_m."""
        return max(self.degrees)

    @property
    def limit(self) -> float:
        """X0 of the range policy: see :func:`ordinary_limit`."""
        return ordinary_limit(self.top, self.denominator_form.mode.power)

    def check_coefficients(self, numerator: tuple[int, ...], denominator: tuple[int, ...]) -> None:
        """Raise SpecError unless the two shapes fit: (n,), or (groups, n) where groups > 1."""
        allowed = self.coefficient_shapes
        if numerator in allowed[0] and denominator in allowed[1]:
            return
        for what, shape, shapes in (("numerator", numerator, allowed[0]), ("denominator", denominator, allowed[1])):
            if tuple(shape) not in shapes:
                needed = " or ".join(map(str, shapes))
                raise SpecError(f"the {what} has shape {tuple(shape)}; {self} needs {needed}")

    @cached_property
    def coefficient_shapes(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Shapes that numerator and denominator may have."""
        sizes = self.numerator_size, self.denominator_size
        own = [((size,), (self.groups, size)) if self.groups > 1 else ((size,),) for size in sizes]
        return own[0], own[1]

    def check_input(self, shape: tuple[int, ...]) -> int:
        """Return the channel axis as a non-negative number; raise SpecError where ``shape`` has no such groups."""
        if self.groups == 1:
            return 0
        rank = len(shape)
        if not -rank <= self.axis < rank:
            raise SpecError(f"the input has shape {tuple(shape)}, which has no axis {self.axis} for {self.groups} groups")
        axis = self.axis % rank
        if shape[axis] % self.groups:
            raise SpecError(
                f"axis {self.axis} of the input has {shape[axis]} channels, which {self.groups} groups do not divide"
            )
        return axis

    def steps(self) -> tuple[Step, ...]:
        """The recurrence steps that lead to f_1 .. f_m."""
        return _steps(self.basis, self.top)

    def __str__(self) -> str:
        k, l = self.degrees
        where = f", {self.groups} groups along axis {self.axis}" if self.groups > 1 else ""
        return f"{self.basis}, {self.form}, degrees ({k}, {l}){where}"


@lru_cache(maxsize=256)
def _steps(basis: str, top: int) -> tuple[Step, ...]:
    return tuple(BASES[basis](n) for n in range(top))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_degrees(degrees: object) -> tuple[int, int]:
    pair = tuple(degrees) if isinstance(degrees, (tuple, list)) else ()
    if len(pair) != 2 or not all(_is_int(n) and 0 <= n <= MAX_DEGREE for n in pair):
        raise SpecError(f"degrees is {degrees!r}; expected two whole numbers (k, l) from 0 to {MAX_DEGREE}")
    return pair[0], pair[1]


def ordinary_limit(top: int, power: int = 1) -> float:
    """X0 of the range policy: up to this magnitude no term of degree ``top`` can overflow float32, so nothing is scaled.

    A power of two, so that dividing by it is exact. With the steepest leading coefficients of all bases, 2**n
    (hermite, chebyshev_u), abs(f_m(x)) stays below 2**96, which leaves room for the coefficients and the sum; where Q holds
    the square of terms (``power`` 2), below 2**36.
    """
    return float(2.0 ** ((120 // power - 40) // max(top, 1)))


class CommonFactor(NamedTuple):
    """P and Q are multiplied by min(most, max(1, enough / size)), size = max(abs(c_M), abs(d_M)) sizes[M]."""

    sizes: tuple[float, ...]
    enough: float
    most: float


@lru_cache(maxsize=256)
def common_factor(basis: str, top: int, power: int = 1) -> CommonFactor:
    """The factor that P and Q, divided by s**M, have in common.

    At the limit, f_M is about sizes[M]. Where P or Q, divided by s**M, is at least 4, the other one is no longer a normal
    number only where the quotient is not one either, in any IEEE format: 4 is enough, and a power of two near it will do.
    sizes[0] is 0: with M = 0 nothing is scaled.
    """
    limit, lead, before, now = ordinary_limit(top, power), 1.0, 0.0, 1.0
    sizes, largest = [0.0], 1.0
    for n, step in enumerate(_steps(basis, top), start=1):
        a, b, c = (abs(float(v)) for v in step)
        before, now = now, (a * limit + b) * now + c * before  # abs(f_n) is at most this up to the limit
        lead *= a
        sizes.append(lead * limit**n)
        largest = max(largest, now)
    return CommonFactor(tuple(sizes), 4.0, max(1.0, 2.0**112 / largest))


@lru_cache(maxsize=256)
def derivative_table(basis: str, top: int) -> tuple[tuple[Fraction, ...], ...]:
    """D with f_i'(x) = sum_j D[i][j] f_j(x), shape (top + 1, top + 1), exact.

    Derived from the recurrence: f'_{n+1} = a f_n + (a x + b) f'_n - c f'_{n-1}, where a product with x is written in
    the basis again through x f_j = (f_{j+1} - b_j f_j + c_j f_{j-1}) / a_j.
    """
    step = BASES[basis]
    width = top + 2
    zero = [Fraction(0)] * width
    rows = [list(zero), list(zero)]  # f'_{-1}, f'_0
    for n in range(top):
        a, b, c = step(n)
        row = [b * v - c * w for v, w in zip(rows[-1], rows[-2], strict=True)]
        for j, value in enumerate(_times_x(rows[-1], step)):
            row[j] += a * value
        row[n] += a
        rows.append(row)
    return tuple(tuple(row[: top + 1]) for row in rows[1:])


def _times_x(series: list[Fraction], step: Callable[[int], Step]) -> list[Fraction]:
    """Coefficients, in the same basis, of x times the series."""
    out = [Fraction(0)] * len(series)
    for j, value in enumerate(series):
        if value:
            a, b, c = step(j)
            out[j + 1] += value / a
            out[j] -= value * b / a
            if j:
                out[j - 1] += value * c / a
    return out


PAU_FORMS = {"A": "abs_terms", "B": "abs_sum", "C": "pau_c", "D": "abs_sum", "N": "plain"}
"""Version of the package ``rational-activations`` -> form, with basis ``power``. D is B plus noise in training."""
