"""The function body of every configuration, in onnxruntime without a library and in onnx's evaluator, against the oracle.

The cases are those that drive every implementation (tests/cases.py); dtypes and opsets take turns over them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest

from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import BASES, Config
from opau_onnx.graph import opsets
from tests import cases
from tests.export import single
from tests.export.single import Case

Record = Callable[[str, float], None]
Values = tuple[Any, Any]

DEGREES = [(0, 0), (1, 0), (0, 3), (5, 4), (16, 16)]
OPSETS = list(range(opsets.OLDEST, opsets.newest() + 1))
DTYPES = list(single.NUMPY)


def typed(known: cases.Case, turn: int, opset_turn: int) -> tuple[Case, Values]:
    """A case of the table in the dtype and the opset whose turn it is."""
    per_group = (known.numerator.ndim == 2, known.denominator.ndim == 2)
    case = Case(known.config, DTYPES[turn % len(DTYPES)], OPSETS[opset_turn % len(OPSETS)], per_group)
    return case, (known.numerator.astype(case.compute), known.denominator.astype(case.compute))


def function_cases(basis: str, form: str) -> list[tuple[Case, Values]]:
    turn = list(BASES).index(basis) * len(FORMS) + list(FORMS).index(form)
    return [typed(cases.case(basis, form, d), turn + i, turn + i) for i, d in enumerate(DEGREES)]


def sharing_cases(sharing: cases.Sharing, dtype: str) -> list[tuple[Case, Values]]:
    """Every third opset; bases and forms take turns."""
    turn = cases.SHARINGS.index(sharing) * len(DTYPES) + DTYPES.index(dtype)
    bases, forms = list(BASES), list(FORMS)
    return [
        typed(cases.case(bases[(turn + i) % len(bases)], forms[(turn + i) % len(forms)], (3, 2), sharing), turn, i)
        for i in range(turn % 3, len(OPSETS), 3)
    ]


def run_and_check(case: Case, values: Values, x: Any, record_property: Record) -> None:
    file = single.model(case, [None] * x.ndim, values)
    onnx.checker.check_model(file, full_check=True)
    for name, run in single.runners(file).items():
        record_property("error / bound", single.check(case, x, values, run(x)[0], name))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("basis", BASES)
def test_every_basis_form_and_degree(basis: str, form: str, record_property: Record) -> None:
    for case, values in function_cases(basis, form):
        run_and_check(case, values, single.inputs(case), record_property)


@pytest.mark.parametrize("sharing", cases.SHARINGS, ids=lambda s: s.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sharing_dtype_and_opset(sharing: cases.Sharing, dtype: str, record_property: Record) -> None:
    for case, values in sharing_cases(sharing, dtype):
        x = single.inputs(case, max(48, prod(sharing.shape)))[-prod(sharing.shape) :].reshape(sharing.shape)
        run_and_check(case, values, x, record_property)


def test_what_takes_turns_meets() -> None:
    """Nothing is left out because its turn never comes."""
    met: set[Any] = set()
    for basis, form in product(BASES, FORMS):
        for case, _ in function_cases(basis, form):
            met |= {(basis, case.dtype), (form, case.dtype), (basis, case.opset)}
    for sharing, dtype in product(cases.SHARINGS, DTYPES):
        for case, _ in sharing_cases(sharing, dtype):
            assert case.dtype == dtype
            met |= {(sharing.name, case.opset), (dtype, case.opset)}
    expected = {*product(BASES, DTYPES), *product(FORMS, DTYPES), *product(BASES, OPSETS), *product(DTYPES, OPSETS)}
    assert met == expected | {*product((s.name for s in cases.SHARINGS), OPSETS)}


def test_a_wrong_body_is_noticed() -> None:
    """The comparison can fail: one coefficient off by 5e-5 of itself is seen."""
    case = Case(Config())
    values = single.coefficients(case)
    x = single.inputs(case)
    for position, index in ((0, 1), (0, 5), (1, 0), (1, 3)):
        changed = [np.array(v) for v in values]
        changed[position][index] *= 1 + 5e-5
        y = single.runners(single.model(case, [None], (changed[0], changed[1])))["onnxruntime"](x)[0]
        with pytest.raises(AssertionError, match="wrong"):
            single.check(case, x, values, y)
