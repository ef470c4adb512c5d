"""Write ``opau/tables.hpp``: the tables of ``opau_onnx/core/spec.py`` and ``opau_onnx/core/bases.py`` for C++.

Run by the build: ``python generate_tables.py OUTPUT``. Needs nothing but the standard library: these two modules import no
more. Exact fractions become the nearest double.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # what is being built is not installed yet

from opau_onnx.core import spec
from opau_onnx.core.bases import polynomials

TOP = """// Generated from opau_onnx/core/spec.py by generate_tables.py at build time. Do not edit.
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


def _row(values: Sequence[Fraction]) -> str:
    return "{" + ", ".join(repr(float(v)) for v in values) + "}"


def _basis(name: str) -> str:
    p = polynomials(name)
    flags = f'"{name}", {str(p.symmetric).lower()}, {str(p.symmetric and not any(p.gamma)).lower()}'
    steps = [spec.BASES[name](n) for n in range(spec.MAX_DEGREE)]
    columns = [_row(column) for column in zip(*steps, strict=True)]
    monomials = "{" + ",\n      ".join(map(_row, p.monomials)) + "}"
    parts = [*columns, *map(_row, (p.leading, p.shift, p.gamma, p.centre)), repr(float(p.rest)), monomials]
    return f"    {{{flags},\n     " + ",\n     ".join(parts) + "},"


def render() -> str:
    """The header's text."""
    top = spec.MAX_DEGREE
    lines = [TOP]
    lines.append(f"inline constexpr int kMaxDegree = {top};")
    lines.append(f'inline constexpr const char* kDomain = "{spec.DOMAIN}";')
    lines.append(f'inline constexpr const char* kOpType = "{spec.OP_TYPE}";')
    lines.append(f'inline constexpr const char* kFixedOpType = "{spec.FIXED_OP_TYPE}";')
    lines.append(f"inline constexpr int kOpsetVersion = {spec.OPSET_VERSION};")
    lines.append(f"inline constexpr double kCoefficientLimit = {spec.COEFFICIENT_LIMIT!r};")
    limits = _row([spec.ordinary_limit(n) for n in range(top + 1)])
    lines.append(f"inline constexpr double kOrdinaryLimit[kMaxDegree + 1] = {limits};")
    lines.append(STRUCTS)
    lines.append("inline constexpr Basis kBases[] = {")
    lines += map(_basis, spec.BASES)
    lines.append("};\n\ninline constexpr Form kForms[] = {")
    for form in spec.FORMS.values():
        bounded = form.minimum is not None
        numbers = f"{form.first}, {form.offset!r}, Absolute::{form.absolute}, {str(bounded).lower()}, {form.minimum or 0.0!r}"
        lines.append(f'    {{"{form.name}", {numbers}, {str(form.safe).lower()}}},')
    lines.append("};\n\n}  // namespace opau::tables\n")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
