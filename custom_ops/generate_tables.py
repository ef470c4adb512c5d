"""Write ``opau/tables.hpp``: the tables of ``spec.py``, ``denominators.py`` and ``bases.py`` of ``opau_onnx/core/`` for C++.

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
from opau_onnx.core.denominators import FORMS, MODES, Form

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

struct Form {
  const char* name;
  int first;         // the denominator's first coefficient belongs to f_first
  double offset;
  Mode mode;
  bool bounded;      // whether Q = max(minimum, ...)
  double minimum;
  bool safe;
  int power;         // of the terms: term(s t) = s**power term(t)
  double limit[kMaxDegree + 1];  // X0 of the range policy by the larger degree
};
"""
MODES_TEXT = """
// What a denominator does to its terms and to their sum: opau_onnx/core/denominators.py.
enum class Mode {{ {names} }};
inline constexpr int kModes = {count};
template <Mode...>
struct ModeList {{}};
using Modes = ModeList<{list}>;
"""


def _row(values: Sequence[Fraction | float]) -> str:
    return "{" + ", ".join(repr(float(v)) for v in values) + "}"


def _basis(name: str) -> str:
    p = polynomials(name)
    flags = f'"{name}", {str(p.symmetric).lower()}, {str(p.symmetric and not any(p.gamma)).lower()}'
    steps = [spec.BASES[name](n) for n in range(spec.MAX_DEGREE)]
    columns = [_row(column) for column in zip(*steps, strict=True)]
    monomials = "{" + ",\n      ".join(map(_row, p.monomials)) + "}"
    parts = [*columns, *map(_row, (p.leading, p.shift, p.gamma, p.centre)), repr(float(p.rest)), monomials]
    return f"    {{{flags},\n     " + ",\n     ".join(parts) + "},"


def _form(form: Form) -> str:
    bounded = form.minimum is not None
    numbers = f"{form.first}, {form.offset!r}, Mode::{form.mode.name}, {str(bounded).lower()}, {form.minimum or 0.0!r}"
    limits = _row([spec.ordinary_limit(n, form.mode.power) for n in range(spec.MAX_DEGREE + 1)])
    return f'    {{"{form.name}", {numbers}, {str(form.safe).lower()}, {form.mode.power}, {limits}}},'


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
    names = [mode.name for mode in MODES]
    listed = ", ".join(f"Mode::{name}" for name in names)
    lines.append(MODES_TEXT.format(names=", ".join(names), count=len(names), list=listed))
    lines.append(STRUCTS)
    lines.append("inline constexpr Basis kBases[] = {")
    lines += map(_basis, spec.BASES)
    lines.append("};\n\ninline constexpr Form kForms[] = {")
    lines += map(_form, FORMS.values())
    lines.append("};\n\n}  // namespace opau::tables\n")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
