"""Kernels of low degrees against those of (5, 4) with coefficients of zero: the same bits in every basis, sharing and dtype."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from opau_onnx import native
from opau_onnx.core.denominators import FORMS
from opau_onnx.core.spec import Config
from tests.cases import case
from tests.custom_ops.library import required_library

NUMPY = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
CHANNELS = 24


def padded(values: Any, size: int) -> Any:
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, size - values.shape[-1])])


def results(config: Config, rows: tuple[Any, Any], affine: tuple[Any, Any] | None, dtype: str, x: Any) -> list[Any]:
    """Of every instruction set, as bits; one NaN stands for all."""
    library, found = required_library(), []
    for name in native.instruction_sets(library):
        y = native.Activation(config, *rows, dtype, affine=affine, instruction_set=name, library=library)(x)
        y[np.isnan(y.astype(np.float64))] = np.nan
        found.append(y.tobytes())
    return found


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("degrees", [(4, 3), (3, 3), (3, 2), (3, 1), (2, 2), (2, 1), (1, 1), (0, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("form", ["abs_terms", "plain", "abs_sum"])
@pytest.mark.parametrize("basis", ["power", "hermite_e", "legendre"])
def test_low_degrees_have_the_bits_of_the_highest(basis: str, form: str, degrees: tuple[int, int], dtype: str) -> None:
    c, rng = case(basis, form, degrees), np.random.default_rng(5)
    whole = FORMS[form].first
    x = rng.standard_normal((7, CHANNELS, 3)) * 10.0 ** rng.integers(-3, 6, (7, CHANNELS, 3))
    x.reshape(-1)[:5] = [0.0, -0.0, np.inf, -np.inf, np.nan]
    if dtype == "float16":
        x = np.where(np.isinf(x), x, x.clip(-6e4, 6e4))
    x = x.astype(NUMPY[dtype])
    scales = rng.uniform(0.5, 2.0, (2, CHANNELS))
    own = [np.outer(s, v).reshape(CHANNELS, v.size) for s, v in zip(scales, (c.numerator, c.denominator), strict=True)]
    one = [np.asarray(c.numerator), np.asarray(c.denominator)]
    for groups, rows, affine in ((1, one, None), (CHANNELS, own, None), (CHANNELS, one, (scales[0], scales[1]))):
        low, high = (Config(basis, form, d, groups, 1) for d in (degrees, (5, 4)))
        wide = padded(rows[0], 6), padded(rows[1], 5 - whole)
        found = results(low, (rows[0], rows[1]), affine, dtype, x)
        assert {*found, *results(high, wide, affine, dtype, x)} == {found[0]}, (groups, affine is not None)
