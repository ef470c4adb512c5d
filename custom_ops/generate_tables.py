"""Write ``opau/tables.hpp``: the tables of ``opau_onnx/spec.py`` for C++, and what follows exactly from them.

Run by the build: ``python generate_tables.py OUTPUT``. Needs nothing but the standard library. Exact fractions become the
nearest double. Derived here, for each basis, from its recurrence f_{n+1} = (a x + b) f_n - c f_{n-1}:

* monic rows g_n = f_n / leading_n with g_{n+1} = (x + shift_n) g_n - gamma_n g_{n-1};
* for the symmetric bases (no shift) the same in t = x**2: with g_n = x**(n mod 2) h_n(t),
  h_n = (t - beta_n) h_{n-2} - delta_n h_{n-4}, where h_{-1}, h_{-2}, .. are 0 and h_0 = h_1 = 1.
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
  double beta[kMaxDegree + 1], delta[kMaxDegree + 1];  // its even and odd halves in x**2
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


def _halves(gamma: Sequence[Fraction]) -> tuple[list[Fraction], list[Fraction]]:
    zero = Fraction(0)
    beta, delta = [zero, zero], [zero, zero]
    for n in range(2, len(gamma) + 1):
        beta.append(gamma[n - 2] + gamma[n - 1])
        delta.append(gamma[n - 2] * gamma[n - 3] if n >= 4 else zero)
    return beta, delta


def _basis(name: str, steps: Sequence[tuple[Fraction, Fraction, Fraction]]) -> str:
    leading, shift, gamma = _monic(steps)
    beta, delta = _halves(gamma)
    symmetric = not any(shift)
    flags = f'"{name}", {str(symmetric).lower()}, {str(symmetric and not any(gamma)).lower()}'
    a, b, c = (_row(column) for column in zip(*steps, strict=True))
    return f"    {{{flags},\n     " + ",\n     ".join((a, b, c, *map(_row, (leading, shift, gamma, beta, delta)))) + "},"


def render(spec: ModuleType) -> str:
    """The header's text."""
    top = spec.MAX_DEGREE
    lines = [TOP]
    lines.append(f"inline constexpr int kMaxDegree = {top};")
    lines.append(f'inline constexpr const char* kDomain = "{spec.DOMAIN}";')
    lines.append(f'inline constexpr const char* kOpType = "{spec.OP_TYPE}";')
    lines.append(f"inline constexpr int kOpsetVersion = {spec.OPSET_VERSION};")
    lines.append(f"inline constexpr double kCoefficientLimit = {spec.COEFFICIENT_LIMIT!r};")
    lines.append(f"inline constexpr double kOrdinaryLimit[kMaxDegree + 1] = {_row([spec.ordinary_limit(n) for n in range(top + 1)])};")
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
