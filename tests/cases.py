"""The table of cases that drives the tests of every implementation, and an exact reference that shares nothing with them.

The reference takes the bases from their closed forms in rational arithmetic (:func:`monomials`), not from recurrences.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.oracle import Evaluation
from opau_onnx.core.spec import BASES, Config, ordinary_limit

Array = npt.NDArray[Any]

DEGREES = ((0, 0), (1, 0), (0, 1), (5, 4), (4, 5), (16, 1), (1, 16), (16, 16))
SAFE = tuple(name for name, form in FORMS.items() if form.safe)


@dataclass(frozen=True)
class Sharing:
    """How coefficients are shared: of an input of ``shape``, ``groups`` runs along ``axis``."""

    name: str
    groups: int = 1
    axis: int = 1
    shared_numerator: bool = False
    shared_denominator: bool = False
    shape: tuple[int, ...] = (2, 6, 4, 5)


SHARINGS = (
    Sharing("shared"),
    Sharing("groups", 3),
    Sharing("per_channel", 6),
    Sharing("last_axis", 5, -1),
    Sharing("first_axis", 2, 0),
    Sharing("shared_numerator", 3, 1, shared_numerator=True),
    Sharing("shared_denominator", 2, -2, shared_denominator=True),
    Sharing("vector", 4, 0, shape=(12,)),
)


@dataclass(frozen=True)
class Case:
    """One function: a configuration and its coefficients, float64 arrays that float32 and float16 hold exactly."""

    config: Config
    numerator: Array
    denominator: Array
    shape: tuple[int, ...] = (2, 6, 4, 5)

    def __str__(self) -> str:
        c = self.config
        groups = f"-{c.groups}@{c.axis}" if c.groups > 1 else ""
        return f"{c.basis}-{c.form}-{c.degrees[0]}-{c.degrees[1]}{groups}"


def case(basis: str, form: str, degrees: tuple[int, int] = (5, 4), sharing: Sharing = SHARINGS[0]) -> Case:
    """A case with coefficients drawn from its own name, so that it is the same in every test."""
    config = Config(basis, form, degrees, sharing.groups, sharing.axis)
    rng = np.random.default_rng(zlib.crc32(f"{config}{sharing.name}".encode()))
    rows = () if sharing.groups == 1 else (sharing.groups,)
    c_rows = () if sharing.shared_numerator else rows
    d_rows = () if sharing.shared_denominator else rows
    c = _draw(rng, (*c_rows, config.numerator_size))
    d = _draw(rng, (*d_rows, config.denominator_size))
    return Case(config, c, d, sharing.shape)


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Eighths from 1/8 to 2 with either sign: no cancelling to nothing, and exact in every dtype."""
    return np.asarray(rng.integers(1, 17, shape) / 8.0 * rng.choice([-1.0, 1.0], shape))


CASES = tuple(case(b, f, d) for b in BASES for f in FORMS for d in DEGREES)
"""Every basis, every form, every pair of degrees; shared coefficients."""

SHARED_CASES = tuple(case(b, f, (5, 4), s) for b in BASES for f in FORMS for s in SHARINGS[1:])
"""Every basis, every form, every other kind of sharing."""


NUMBERS = st.one_of(st.just(0.0), st.floats(2.0**-10, 2.0**10, width=32), st.floats(-(2.0**10), -(2.0**-10), width=32))


@st.composite
def any_case(draw: st.DrawFn) -> Case:
    """Any basis, form, degrees and coefficients of ordinary size, zeros among them."""
    k, l = draw(st.integers(0, 16)), draw(st.integers(0, 16))
    config = Config(draw(st.sampled_from(list(BASES))), draw(st.sampled_from(list(FORMS))), (k, l))
    sizes = config.numerator_size, config.denominator_size
    c, d = (np.array(draw(st.lists(NUMBERS, min_size=n, max_size=n)), dtype=np.float64) for n in sizes)
    return Case(config, c, d)


def inputs(config: Config, dtype: Any = np.float32, count: int = 200) -> Array:
    """Finite inputs of a dtype: ordinary ones, signed zeros, subnormals, both sides of X0, all magnitudes up to the largest."""
    info = np.finfo(dtype)
    limit = min(ordinary_limit(config.top), float(info.max) / 4)
    edges = [0.0, 0.5, 1.0, 2.0, info.smallest_subnormal, info.tiny, limit * (1 - info.eps), limit, limit * (1 + info.eps)]
    edges += [2 * limit, float(info.max), float(info.max) / 2]
    sizes = np.logspace(np.log10(float(info.tiny)), np.log10(float(info.max)) - 0.01, count // 2)
    rng = np.random.default_rng(0)
    positive = np.concatenate([edges, sizes, rng.uniform(0, 4, count), rng.uniform(0, 64, count // 2)])
    return np.concatenate([positive, -positive]).astype(dtype)


def trusted(config: Config, found: Evaluation, u: float) -> Array:
    """Where the first-order bound can be relied on: not where rounding may change Q by more than a hundredth of it.

    With absolute terms Q cannot cancel; in the other forms it can, next to a pole or where a large sum passes through zero.
    """
    if config.form == "abs_terms":
        return np.ones(found.value.shape, dtype=bool)
    return np.asarray(np.isfinite(found.value) & (found.bound * u <= 0.01 * np.abs(found.value)))


@lru_cache(maxsize=512)
def monomials(basis: str, n: int) -> tuple[Fraction, ...]:
    """Coefficients of f_n by powers of x, lowest first, from the closed forms (Abramowitz and Stegun, 22.3)."""
    out = [Fraction(0)] * (n + 1)
    if basis == "power":
        out[n] = Fraction(1)
    elif basis == "laguerre":
        for k in range(n + 1):
            out[k] = Fraction((-1) ** k * comb(n, k), factorial(k))
    else:
        for k in range(n // 2 + 1):
            out[n - 2 * k] = (-1) ** k * _even_odd_term(basis, n, k)
    return tuple(out)


def _even_odd_term(basis: str, n: int, k: int) -> Fraction:
    """Magnitude of the coefficient of x**(n - 2 k)."""
    power = n - 2 * k
    if basis == "legendre":
        return Fraction(comb(n, k) * comb(2 * n - 2 * k, n), 2**n)
    if basis == "hermite_e":
        return Fraction(factorial(n), 2**k * factorial(k) * factorial(power))
    if basis == "hermite":
        return Fraction(factorial(n) * 2**power, factorial(k) * factorial(power))
    if basis == "chebyshev_u":
        return Fraction(comb(n - k, k) * 2**power)
    assert basis == "chebyshev"
    return Fraction(n * factorial(n - k - 1) * 2**power, 2 * factorial(k) * factorial(power)) if n else Fraction(1)


def exact_basis(basis: str, top: int, x: Fraction) -> list[Fraction]:
    """f_0 .. f_top at x, exactly."""
    powers = [Fraction(1)]
    for _ in range(top):
        powers.append(powers[-1] * x)
    return [sum((c * p for c, p in zip(monomials(basis, n), powers, strict=False) if c), Fraction(0)) for n in range(top + 1)]


@dataclass(frozen=True)
class Exact:
    """P, Q and the sums of their terms' magnitudes, exactly."""

    top: Fraction
    bottom: Fraction
    top_size: Fraction
    bottom_size: Fraction
    clamped: bool


def exact(config: Config, x: Any, numerator: Sequence[Any], denominator: Sequence[Any]) -> Exact:
    """The definition in rational arithmetic, written out form by form; one element, one row of coefficients."""
    f = exact_basis(config.basis, config.top, Fraction(x))
    c, d = [Fraction(v) for v in numerator], [Fraction(v) for v in denominator]
    top = [ci * fi for ci, fi in zip(c, f, strict=False)]
    terms = [dj * fj for dj, fj in zip(d, f[0 if config.form in ("pau_c", "free") else 1 :], strict=False)]
    total, size = sum(terms, Fraction(0)), sum((abs(t) for t in terms), Fraction(0))
    offset = {"pau_c": Fraction(0.1), "free": Fraction(0)}.get(config.form, Fraction(1))
    bottom = {
        "abs_terms": offset + size,
        "abs_sum": offset + abs(total),
        "plain": offset + total,
        "pau_c": offset + abs(total),
        "clamped": max(Fraction(1e-8), offset + total),
        "free": total,
    }[config.form]
    clamped = config.form == "clamped" and offset + total < Fraction(1e-8)
    return Exact(sum(top, Fraction(0)), bottom, sum((abs(t) for t in top), Fraction(0)), offset + size, clamped)
