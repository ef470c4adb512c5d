"""Write ``opau/tables.hpp``: the tables of ``opau_onnx/spec.py`` for C++, and what follows exactly from them.

Run by the build: ``python generate_tables.py OUTPUT``. Needs nothing but the standard library. Exact fractions become the
nearest double. Derived here, for each basis, from its recurrence f_{n+1} = (a x + b) f_n - c f_{n-1}:

* monic rows g_n = f_n / leading_n with g_{n+1} = (x + shift_n) g_n - gamma_n g_{n-1};
* the coefficients of the monomials in f_n;
* for the symmetric bases (no shift) the rows g_2 .. g_4 in closed form: x**2 - centre_2, x (x**2 - centre_3) and
  (x**2 - centre_4)**2 - rest.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
TOP = """// Generated from opau_onnx/spec.py by generate_tables.py at build time. Do not edit.
#pragma once
#include <cstdint>

namespace opau::tables {
"""
STRUCTS = """
struct Basis {
  const char* name;
  bool symmetric;     // f_n is even or odd
  bool power;         // f_n = x**n
  double a[kMaxDegree], b[kMaxDegree], c[kMaxDegree];  // the definition's recurrence
  double leading[kMaxDegree + 1];                      // f_n = leading_n g_n
  double shift[kMaxDegree], gamma[kMaxDegree];         // monic recurrence
  double centre[5], rest;                              // g_2 .. g_4 of a symmetric basis in closed form
  double monomials[kMaxDegree + 1][kMaxDegree + 1];    // f_n = sum_i monomials[n][i] x**i
};

enum class Absolute { terms, sum, none };

struct Form {
  const char* name;
  int first;         // the denominator's first coefficient belongs to f_first
  double offset;
  Absolute absolute;
  bool bounded;      // whether Q = max(minimum, ...)
  double minimum;
  bool safe;
};
"""


def _load_spec() -> ModuleType:
    """The definition, without importing the package (whose dependencies a build need not have)."""
    sys.path.insert(0, str(ROOT))
    spec = importlib.util.find_spec("opau_onnx.spec")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _row(values: Sequence[Fraction]) -> str:
    return "{" + ", ".join(repr(float(v)) for v in values) + "}"


def _monic(steps: Sequence[tuple[Fraction, Fraction, Fraction]]) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
    leading, shift, gamma = [Fraction(1)], [], []
    for n, (a, b, c) in enumerate(steps):
        leading.append(leading[-1] * a)
        shift.append(b / a)
        gamma.append(c / (a * steps[n - 1][0]) if n else Fraction(0))
    return leading, shift, gamma


def _closed(gamma: Sequence[Fraction]) -> tuple[list[Fraction], Fraction]:
    """(centres, rest): g_4 = x**4 - (gamma_1 + gamma_2 + gamma_3) x**2 + gamma_1 gamma_3, its square completed."""
    half = (gamma[1] + gamma[2] + gamma[3]) / 2
    return [Fraction(0), Fraction(0), gamma[1], gamma[1] + gamma[2], half], half**2 - gamma[1] * gamma[3]


def _monomials(steps: Sequence[tuple[Fraction, Fraction, Fraction]]) -> list[list[Fraction]]:
    width = len(steps) + 1
    rows = [[Fraction(0)] * width, [Fraction(1)] + [Fraction(0)] * (width - 1)]  # f_{-1}, f_0
    for a, b, c in steps:
        times_x = [Fraction(0), *rows[-1][:-1]]
        rows.append([a * u + b * v - c * w for u, v, w in zip(times_x, rows[-1], rows[-2], strict=True)])
    return rows[1:]


def _basis(name: str, steps: Sequence[tuple[Fraction, Fraction, Fraction]]) -> str:
    leading, shift, gamma = _monic(steps)
    centre, rest = _closed(gamma)
    symmetric = not any(shift)
    flags = f'"{name}", {str(symmetric).lower()}, {str(symmetric and not any(gamma)).lower()}'
    columns = [_row(column) for column in zip(*steps, strict=True)]
    monomials = "{" + ",\n      ".join(map(_row, _monomials(steps))) + "}"
    parts = [*columns, *map(_row, (leading, shift, gamma, centre)), repr(float(rest)), monomials]
    return f"    {{{flags},\n     " + ",\n     ".join(parts) + "},"


def render(spec: ModuleType) -> str:
    """The header's text."""
    top = spec.MAX_DEGREE
    lines = [TOP]
    lines.append(f"inline constexpr int kMaxDegree = {top};")
    lines.append(f'inline constexpr const char* kDomain = "{spec.DOMAIN}";')
    lines.append(f'inline constexpr const char* kOpType = "{spec.OP_TYPE}";')
    lines.append(f"inline constexpr int kOpsetVersion = {spec.OPSET_VERSION};")
    lines.append(f"inline constexpr double kCoefficientLimit = {spec.COEFFICIENT_LIMIT!r};")
    limits = _row([spec.ordinary_limit(n) for n in range(top + 1)])
    lines.append(f"inline constexpr double kOrdinaryLimit[kMaxDegree + 1] = {limits};")
    lines.append(STRUCTS)
    lines.append("inline constexpr Basis kBases[] = {")
    for name, step in spec.BASES.items():
        lines.append(_basis(name, [step(n) for n in range(top)]))
    lines.append("};\n\ninline constexpr Form kForms[] = {")
    for form in spec.FORMS.values():
        bounded = form.minimum is not None
        numbers = f"{form.first}, {form.offset!r}, Absolute::{form.absolute}, {str(bounded).lower()}, {form.minimum or 0.0!r}"
        lines.append(f'    {{"{form.name}", {numbers}, {str(form.safe).lower()}}},')
    lines.append("};\n\n}  // namespace opau::tables\n")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(_load_spec()))
